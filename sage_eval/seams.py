"""Where this project holds on to SGLang's inside, and what differs there between the versions it knows.

SGLang swallows what goes wrong while it applies a hook, and a private function that means something else under its old
name gives other numbers without a word. So what we hook, replace or stand in for is listed here with the parameters
that we count on. Where it has others, `check` raises before the first token, and names the version.

This is the one module that asks which version it is; it asks by what it finds, not by number.
"""

import inspect
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sage_eval.errors import PrerequisiteError

KNOWN = "0.5.17 to 0.5.23"
TOKEN_COLUMNS = "sglang.srt.layers.logprob_processor.get_token_ids_logprobs_chunk"
PROFILER = "sglang.srt.managers.scheduler_components.profiler_manager.SchedulerProfilerManager"
INTERNAL_STATE = "sglang.srt.managers.scheduler.Scheduler.get_internal_state"
SUPPORT_TRITON = "sglang.srt.utils.common.support_triton"

_COLUMNS = "logprobs token_ids_logprobs pruned_lens token_ids_logprobs_val token_ids_logprobs_idx split_pruned_len"
_ATTENTION = "sglang.kernels.ops.attention"
_NATIVE = "sglang.srt.layers.attention.torch_native_backend.TorchNativeAttnBackend"
_SEQUENCES = "self query output k_cache v_cache req_to_token req_pool_indices seq_lens"


@dataclass(frozen=True)
class Seam:
    """A function or class of SGLang: its dotted name, and the parameters that it must have.

    Each of `forms` names leading parameters, separated by spaces; others may follow unless the seam is `closed`.
    """

    target: str
    forms: tuple[str, ...] = ("",)
    closed: bool = False

    def form(self) -> int:
        """Which of the forms SGLang has here. Raises `PrerequisiteError` for none."""
        holder, _, name = self.target.rpartition(".")
        try:
            found = vars(pkgutil.resolve_name(holder))[name]  # its own: we replace it there, and a base's would stay
        except (ImportError, AttributeError, KeyError) as error:
            raise changed(f"has no {self.target} ({error})") from None
        names = list(inspect.signature(inspect.unwrap(found)).parameters)
        for place, form in enumerate(self.forms):
            wanted = form.split()
            if names == wanted or (not self.closed and names[: len(wanted)] == wanted):
                return place
        raise changed(f"has another {self.target}: it takes {', '.join(names)}")


COLUMNS = Seam(
    TOKEN_COLUMNS,
    (_COLUMNS, f"{_COLUMNS} log_normalizer", f"{_COLUMNS} log_normalizer copy_to_pinned_cpu"),
    closed=True,
)
"""The first form waits for the device at each position; the second fetches a request's rows at once by itself."""

SEAMS = (
    COLUMNS,
    Seam(INTERNAL_STATE, ("self recv_req",)),
    Seam(SUPPORT_TRITON, ("backend",)),
    Seam(f"{PROFILER}._start_profile", ("self stage",)),
    Seam(f"{PROFILER}._stop_profile", ("self stage",)),
    Seam("sglang.srt.layers.radix_attention.RadixAttention.forward", ("self q k v forward_batch save_kv_cache",)),
    Seam("sglang.srt.layers.linear.LinearBase"),
    Seam("sglang.srt.layers.moe.fused_moe_triton.layer.FusedMoE"),
    Seam("sglang.srt.model_executor.runner.decode_cuda_graph_runner.DecodeCudaGraphRunner.can_run_graph", ("self",)),
    Seam(
        f"{_ATTENTION}.extend_attention.extend_attention_fwd",
        (
            "q_extend k_extend v_extend o_extend k_buffer v_buffer qo_indptr kv_indptr kv_indices custom_mask "
            "is_causal mask_indptr max_len_extend k_scale v_scale sm_scale",
        ),
    ),
    Seam(f"{_NATIVE}._run_sdpa_forward_extend", (f"{_SEQUENCES} extend_prefix_lens extend_seq_lens encoder_lens",)),
    Seam(f"{_NATIVE}._run_sdpa_forward_decode", (f"{_SEQUENCES} encoder_lens",)),
)


def check(seams: Iterable[Seam] = SEAMS) -> None:
    """Raise `PrerequisiteError`, with SGLang's version, where it is not what this project holds on to.

    For after SGLang's `load_plugins`: a hook that SGLang did not apply is an error too.
    """
    for seam in seams:
        seam.form()
    for target in hooked():
        found = pkgutil.resolve_name(target)
        if inspect.unwrap(found) is found:
            raise changed(f"did not apply our hook on {target}")


def hooked() -> list[str]:
    """Targets of the hooks that are not there for one host alone."""
    always = [INTERNAL_STATE, f"{PROFILER}._start_profile", f"{PROFILER}._stop_profile"]
    return [*always, TOKEN_COLUMNS] if one_by_one() else always


def one_by_one() -> bool:
    """Whether SGLang reads log-probabilities of chosen ids position by position: until 0.5.20."""
    return COLUMNS.form() < 2


def changed(what: str) -> PrerequisiteError:
    """The error where SGLang is not what we hold on to: "SGLang 0.5.24 `what` …"."""
    from sglang import __version__

    return PrerequisiteError(f"SGLang {__version__} {what}; sage-eval knows SGLang {KNOWN}: install one of these")


def neutral(options: Mapping[str, Any], allowed: Mapping[str, Any], kernel: str) -> None:
    """Raise `PrerequisiteError` for an option of one call that our kernel would ignore.

    `allowed` has each option's value that asks for nothing, or `...` where any value does.
    """
    for name, value in options.items():
        if name not in allowed or not (allowed[name] is ... or value is allowed[name] or value == allowed[name]):
            raise changed(f"calls {kernel} with {name}={value if isinstance(value, int | float) else type(value)}")


def server_arguments() -> list[str]:
    """Names of the arguments of SGLang's engine: `ServerArgs` is a dataclass, in later versions a msgspec struct."""
    from sglang.srt.server_args import ServerArgs

    return list(inspect.signature(ServerArgs).parameters)


def resolved_arguments(manager: Any) -> dict[str, Any]:
    """What SGLang made of its arguments; `manager` is an engine's `TokenizerManager`."""
    import dataclasses

    arguments = manager.server_args
    if dataclasses.is_dataclass(arguments):
        return manager.resolved_config_dict(dataclasses.asdict(arguments))  # type: ignore[arg-type,no-any-return]
    return arguments.resolved_dict()  # type: ignore[no-any-return]
