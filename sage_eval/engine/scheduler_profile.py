"""Marks in a profile of SGLang's scheduler: which kernel was launched by which kind of layer. Runs in that process.

A profiler sees kernels by name, and every backend names its own otherwise. So, while a profile with one of our labels
runs, and only then, the forward methods of SGLang's attention and linear layers open a range; whatever is launched
inside it is theirs. Outside of such a profile no method is touched, so that nothing that is timed pays for it.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

SERVED, EAGER = "sage_eval_served", "sage_eval_eager"
"""Labels (`profile_prefix` of SGLang's request): as the engine serves, or without CUDA graphs."""
ATTENTION, LINEAR = "sage_eval.attention", "sage_eval.linear"
"""Names of the ranges."""

_LAYERS = (
    (ATTENTION, "sglang.srt.layers.radix_attention", "RadixAttention"),
    (LINEAR, "sglang.srt.layers.linear", "LinearBase"),
    (LINEAR, "sglang.srt.layers.moe.fused_moe_triton.layer", "FusedMoE"),
)
_GRAPHS = ("sglang.srt.model_executor.runner.base_cuda_graph_runner", "BaseCudaGraphRunner")
_open = contextlib.ExitStack()


def start(original: Callable[..., Any], manager: Any, *args: Any, **kwargs: Any) -> Any:
    """Around SGLang's `_start_profile`."""
    result = original(manager, *args, **kwargs)
    label = getattr(manager, "profile_prefix", None)
    if label in (SERVED, EAGER) and result.success:
        _open.enter_context(marks(eager=label == EAGER))
    return result


def stop(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Around SGLang's `_stop_profile`."""
    _open.close()
    return original(*args, **kwargs)


@contextlib.contextmanager
def marks(*, eager: bool = False) -> Iterator[None]:
    """Inside: layers open ranges, and with `eager` no captured graph is replayed. Afterwards all is as it was."""
    with contextlib.ExitStack() as stack:
        for label, module, name in _LAYERS:
            for layer in _family(module, name, "forward"):
                stack.enter_context(_replaced(layer, "forward", functools.partial(_ranged, label)))
        if eager:
            for runner in _family(*_GRAPHS, "can_run_graph"):
                stack.enter_context(_replaced(runner, "can_run_graph", lambda _original: lambda *_: False))
        yield


def _family(module: str, name: str, method: str) -> Iterator[type]:
    """The class and its subclasses that define `method`; none where nothing has imported `module`."""
    pending = [getattr(sys.modules.get(module), name, None)]
    while pending:
        if found := pending.pop():
            pending += found.__subclasses__()
            if method in vars(found):
                yield found


@contextlib.contextmanager
def _replaced(owner: type, method: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    original = vars(owner)[method]
    setattr(owner, method, wrap(original))
    try:
        yield
    finally:
        setattr(owner, method, original)


def _ranged(label: str, original: Callable[..., Any]) -> Callable[..., Any]:
    from torch.profiler import record_function

    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        with record_function(label):
            return original(*args, **kwargs)

    return method
