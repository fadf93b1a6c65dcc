"""What was really computed, by phase and kernel, as seen from outside the engine."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sage_eval.engine.requests import Reply
from sage_eval.errors import CoverageError

KEY = "sage_attn_coverage"


@dataclass(frozen=True)
class Coverage:
    """Tokens of the requests so far, and which kernel computed them.

    `tokens` maps "phase/kernel" to tokens (phases: prefill, prefill_prefix, decode), counted by the backend at kernel
    launch (`counted`), or, for a backend that does not count, taken from SGLang's own report under the backend's name.
    """

    tokens: dict[str, float] = field(default_factory=dict)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    counted: bool = False

    @property
    def computed_tokens(self) -> int:
        """Prompt tokens that were not taken from the prefix cache."""
        return self.prompt_tokens - self.cached_tokens

    def prefill(self) -> dict[str, float]:
        """Prefill tokens by kernel, with and without a prefix."""
        kernels: Counter[str] = Counter()
        for name, count in self.tokens.items():
            phase, _, kernel = name.partition("/")
            if phase.startswith("prefill"):
                kernels[kernel] += count  # type: ignore[assignment]
        return dict(kernels)

    def __add__(self, other: "Coverage") -> "Coverage":
        names = self.tokens | other.tokens
        return Coverage(
            {name: self.tokens.get(name, 0) + other.tokens.get(name, 0) for name in names},
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.generated_tokens + other.generated_tokens,
            self.counted or other.counted,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "tokens": {name: round(count, 3) for name, count in sorted(self.tokens.items())},
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "computed_tokens": self.computed_tokens,
            "generated_tokens": self.generated_tokens,
            "counted": self.counted,
        }


def read_counters(info: Mapping[str, Any]) -> dict[str, float] | None:
    """Tokens by "phase/kernel" since the engine started, over all data-parallel ranks; None if nothing counts."""
    states = [state[KEY] for state in info.get("internal_states", []) if KEY in state]
    if not states:
        return None
    totals: Counter[str] = Counter()
    for state in states:
        for name, count in state["tokens"].items():
            totals[name] += count / state["layers"]
    return dict(totals)


def coverage_delta(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What was added between two readings of `read_counters`; names that did not move are left out."""
    moved = {name: count - before.get(name, 0) for name, count in after.items()}
    return {name: count for name, count in moved.items() if count}


def tally(replies: Iterable[Reply], backend: str) -> Coverage:
    """Coverage of the requests that `replies` answer, by SGLang's own report."""
    prompt = cached = generated = 0
    tokens: Counter[str] = Counter()
    for reply in replies:
        meta = reply["meta_info"]
        hit, new = meta.get("cached_tokens") or 0, meta.get("completion_tokens") or 0
        prompt, cached, generated = prompt + meta["prompt_tokens"], cached + hit, generated + new
        tokens[f"{'prefill_prefix' if hit else 'prefill'}/{backend}"] += meta["prompt_tokens"] - hit
        # The first new token comes out of the prefill.
        tokens[f"decode/{backend}"] += max(0, new - 1)
    return Coverage({name: float(count) for name, count in tokens.items() if count}, prompt, cached, generated)


def check(coverage: Coverage, *, sage_only: bool, repeated: int = 0) -> None:
    """Raise `CoverageError` unless the counted prefill tokens plus the cached ones are the prompt tokens.

    Up to `repeated` more may have been computed, where requests had to be sent again and SGLang's first answer was
    lost. With `sage_only` a prefill token computed by a kernel that is not SageAttention's is an error too.
    """
    if not coverage.counted:
        return
    kernels = coverage.prefill()
    computed = round(sum(kernels.values()), 6)
    if not 0 <= computed - coverage.computed_tokens <= repeated:
        raise CoverageError(
            f"attention kernels computed {computed:,.10g} prompt tokens and {coverage.cached_tokens:,} were cached, "
            f"but the requests had {coverage.prompt_tokens:,}: some tokens were computed twice or by another backend "
            "(other clients of the same server also count)"
        )
    others = {kernel: count for kernel, count in kernels.items() if not kernel.startswith("sage")}
    if sage_only and others:
        listed = ", ".join(f"{kernel}: {count:,.0f}" for kernel, count in others.items())
        raise CoverageError(
            f"{sum(others.values()):,.0f} of {coverage.computed_tokens:,} prompt tokens were not computed by "
            f"SageAttention ({listed}); use mode=throughput to allow it, or a kernel that serves them"
        )
