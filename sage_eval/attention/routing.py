"""Which kernel computes which sequence of a prefill batch. Decided per sequence, from host-side lengths alone."""

from collections.abc import Sequence
from typing import NamedTuple

from sage_eval.attention.coverage import Phase
from sage_eval.attention.settings import AttentionSettings
from sage_eval.errors import UsageError

EXACT = "triton-exact"


class Route(NamedTuple):
    """The sequences [first, last) of a batch and the kernel that computes them, by its name in the coverage."""

    kernel: str
    first: int
    last: int


def kernel_names(settings: AttentionSettings, package: str = "") -> tuple[str, str]:
    """The kernel for sequences without a prefix and the one for sequences with one; `package` is its version."""
    if settings.variant == "exact":
        return EXACT, EXACT
    if settings.kernel == "torch":
        return (f"sage-torch-{settings.variant}",) * 2
    paged = f"sage-paged-{settings.variant}"
    return (f"sage-package-{package}" if settings.kernel == "package" else paged), paged


def route(
    prefixes: Sequence[int], news: Sequence[int], settings: AttentionSettings, package: str = ""
) -> tuple[list[Route], dict[tuple[Phase, str], int]]:
    """Runs of neighbouring sequences that share a kernel, and the new tokens by phase and kernel.

    A sequence of fewer than `min_tokens` tokens, prefix included, goes to the exact kernel. Raises `UsageError` where
    `strict` forbids what the package cannot serve.
    """
    fresh, after_prefix = kernel_names(settings, package)
    routes: list[Route] = []
    counts: dict[tuple[Phase, str], int] = {}
    for i, (prefix, new) in enumerate(zip(prefixes, news, strict=True)):
        kernel = after_prefix if prefix else fresh
        if prefix + new < settings.min_tokens:
            kernel = EXACT
        elif settings.kernel == "package" and settings.strict and prefix:
            raise UsageError(
                f"strict: the package cannot serve {new} new tokens after a prefix of {prefix}; "
                "disable the radix cache and chunked prefill, or set strict=False"
            )
        if routes and routes[-1].kernel == kernel:
            routes[-1] = routes[-1]._replace(last=i + 1)
        else:
            routes.append(Route(kernel, i, i + 1))
        key: tuple[Phase, str] = ("prefill_prefix" if prefix else "prefill", kernel)
        counts[key] = counts.get(key, 0) + new
    return routes, counts
