"""Arms that say what a difference is worth: floors, which should equal the baseline, and controls, which should not.

repeat               the baseline once more
reorder              the baseline with its requests in another order and fewer of them at a time
exact                another exact kernel; without a GPU `sage_attn` with `variant=exact`
floor=BACKEND        the exact kernel of your choice
control              `sage_attn` with INT4 Q·K: damaged, and the instrument must see it
control-unsmoothed   the candidate's variant without smoothing of K
stress=DOSE          the candidate on a checkpoint of the same function under outlier stress: neither floor nor control
"""

import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

from sage_eval.arms.spec import parse_arms
from sage_eval.attention.settings import AttentionSettings
from sage_eval.calibrate.layouts import shape_of
from sage_eval.config import RunConfig
from sage_eval.engine.options import SAGE
from sage_eval.errors import SageEvalError
from sage_eval.store.provenance import find_model
from sage_eval.store.record import Role

ORDER_SEED = 1
LARGEST = 16 << 30
"""Bytes of weights of which a stressed copy is made unasked."""
CONCURRENCY = 8
"""Requests at a time in `reorder`, where the baseline has more or leaves it to SGLang."""


class Wanted(NamedTuple):
    """An arm to be run; `extra` are model arguments of its own."""

    name: str
    role: Role
    backend: str | None
    attention: AttentionSettings
    extra: Mapping[str, Any] = {}


def candidates(config: RunConfig) -> list[Wanted]:
    """The arms under test: `candidate` where there is one, and named by what they are where there are several.

    Settings of an arm's own go before those of the whole comparison. `pretrained` among them is a checkpoint of the
    same function (`compare.equal_models`).
    """
    found = []
    for arm in parse_arms(",".join(config.candidate), beside=["pretrained"]):
        backend, _, _ = arm.name.partition(":")
        own = {name: value for name, value in arm.arguments.items() if name in AttentionSettings.model_fields}
        attention = AttentionSettings(**(config.attention.model_dump(exclude_unset=True) | own))
        attention.check()
        # Of paths the last part; of `variant=int8-fp8,balance=balance.safetensors` int8-fp8 and balance.
        short = re.sub(r"=[^,]*/(?=[^,/]+)", "=", arm.name).replace(".safetensors", "").replace("variant=", "")
        short = re.sub(r"\b(\w+)=\1\b", r"\1", short)
        name = "candidate" if len(config.candidate) == 1 else re.sub(r"[^\w.+=-]+", "-", short)
        extra = {name: value for name, value in arm.arguments.items() if name == "pretrained"}
        found.append(Wanted(name, "candidate", backend, attention, extra))
    return found


def calibration(config: RunConfig, devices: Sequence[Mapping[str, Any]]) -> list[Wanted]:
    """The calibration arms of `config`, in its order.

    Of several candidates the first that is SageAttention's is damaged, and put under stress.
    """
    tested = candidates(config)
    first = next((arm for arm in tested if str(arm.backend).partition("+")[0] == SAGE), tested[0])
    wanted = [name for name in config.calibration if name in config.arms or _possible(name, config, first)]
    return [_wanted(name, config, first, devices) for name in wanted]


def _possible(name: str, config: RunConfig, candidate: Wanted) -> bool:
    """Whether an arm that nobody asked for by name can run: a checkpoint under stress is a whole copy of the model."""
    if not name.startswith("stress="):
        return True
    if config.lm != "sglang-sage" or str(candidate.backend).partition("+")[0] != SAGE:
        return False
    try:
        folder = find_model(config.model)
        shape_of(folder)
    except SageEvalError:
        return False
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    return 0 < sum(sizes) <= LARGEST


def _wanted(name: str, config: RunConfig, candidate: Wanted, devices: Sequence[Mapping[str, Any]]) -> Wanted:
    attention = candidate.attention
    # The control's engine is the candidate's: damage must come from the damaged setting alone.
    damaged = candidate.backend if str(candidate.backend).partition("+")[0] == SAGE else SAGE
    # The released package has no INT4.
    kernel = {"kernel": "auto", "strict": False} if attention.kernel == "package" else {}
    match name.partition("="):
        case ("repeat", _, _):
            return Wanted(name, "floor", config.baseline, config.attention)
        case ("reorder", _, _):
            asked = int(config.model_args.get("max_running_requests") or 0)
            running = CONCURRENCY if not asked or asked > CONCURRENCY else max(1, asked // 2)
            extra = {"order_seed": ORDER_SEED, "max_running_requests": running}
            return Wanted(name, "floor", config.baseline, config.attention, extra)
        case ("control", _, _):
            worse = attention.model_copy(update={"variant": "int4-fp16", **kernel})
            return Wanted(name, "control", damaged, worse, candidate.extra)
        case ("control-unsmoothed", _, _):
            variant = {"variant": "int8-fp16"} if attention.variant == "exact" else {}
            worse = attention.model_copy(update={"smooth_k": "off", **variant})
            return Wanted(name, "control", damaged, worse, candidate.extra)
        case ("stress", _, _):
            # The checkpoint is named where the run folder is known: `compare.stressed`.
            return Wanted(name.replace("=", "-"), "stress", candidate.backend, attention)
        case (_, _, backend):
            exact = attention.model_copy(update={"variant": "exact"})
            return Wanted(name.replace("=", "-"), "floor", backend or other_exact(config, devices), exact)


def other_exact(config: RunConfig, devices: Sequence[Mapping[str, Any]]) -> str:
    """An exact backend that is not the baseline's and can run on the first of `devices`."""
    if not devices:
        return SAGE
    hopper = str(devices[0]["compute_capability"]).startswith("9.")
    fast = "fa3" if hopper else "flashinfer"
    asked = config.baseline or config.model_args.get("attention_backend")
    # What SGLang chooses by itself is the fast one where it is there.
    baseline = str(asked or (fast if hopper or find_spec("flashinfer") else "triton")).partition("+")[0]
    if baseline != "triton":
        return "triton"
    return fast if hopper or find_spec("flashinfer") else SAGE
