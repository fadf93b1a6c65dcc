"""Arms that say what a difference is worth: floors, which should equal the baseline, and controls, which should not.

repeat               the baseline once more
reorder              the baseline with its requests in another order and fewer of them at a time
exact                another exact kernel; without a GPU `sage_attn` with `variant=exact`
floor=BACKEND        the exact kernel of your choice
control              `sage_attn` with INT4 Q·K: damaged, and the instrument must see it
control-unsmoothed   the candidate's variant without smoothing of K
stress=DOSE          the candidate on a checkpoint of the same function under outlier stress: neither floor nor control
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple

from sage_eval.attention.settings import AttentionSettings
from sage_eval.config import RunConfig

Role = Literal["baseline", "candidate", "floor", "control", "stress"]
SAGE = "sage_attn"
ORDER_SEED = 1
CONCURRENCY = 8
"""Requests at a time in `reorder`, where the baseline has more or leaves it to SGLang."""


class Wanted(NamedTuple):
    """An arm to be run; `extra` are model arguments of its own."""

    name: str
    role: Role
    backend: str | None
    attention: AttentionSettings
    extra: Mapping[str, Any] = {}


def calibration(config: RunConfig, devices: Sequence[Mapping[str, Any]]) -> list[Wanted]:
    """The calibration arms that `config.arms` names, in its order."""
    return [_wanted(name, config, devices) for name in config.arms]


def _wanted(name: str, config: RunConfig, devices: Sequence[Mapping[str, Any]]) -> Wanted:
    attention = config.attention
    # The control's engine is the candidate's: damage must come from the damaged setting alone.
    damaged = config.candidate if config.candidate.partition("+")[0] == SAGE else SAGE
    # The released package has no INT4.
    kernel = {"kernel": "auto", "strict": False} if attention.kernel == "package" else {}
    match name.partition("="):
        case ("repeat", _, _):
            return Wanted(name, "floor", config.baseline, attention)
        case ("reorder", _, _):
            asked = int(config.model_args.get("max_running_requests") or 0)
            running = CONCURRENCY if not asked or asked > CONCURRENCY else max(1, asked // 2)
            extra = {"order_seed": ORDER_SEED, "max_running_requests": running}
            return Wanted(name, "floor", config.baseline, attention, extra)
        case ("control", _, _):
            return Wanted(name, "control", damaged, attention.model_copy(update={"variant": "int4-fp16", **kernel}))
        case ("control-unsmoothed", _, _):
            variant = {"variant": "int8-fp16"} if attention.variant == "exact" else {}
            return Wanted(name, "control", damaged, attention.model_copy(update={"smooth_k": "off", **variant}))
        case ("stress", _, _):
            # The checkpoint is named where the run folder is known: `runs.stressed`.
            return Wanted(name.replace("=", "-"), "stress", config.candidate, attention)
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
    return fast if baseline == "triton" else "triton"
