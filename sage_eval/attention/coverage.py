"""Counts which kernel computed how many attention tokens, by phase, where the kernel is launched.

A backend that quietly falls back to another kernel makes every later number meaningless, so the counts are kept in
the scheduler process and travel with SGLang's own server info (`sage_attn_coverage`, see `sage_eval.plugins`). The
unit is token · layers: one query token computed by one layer adds one. Divided by the number of layers this is
tokens, and for every phase the kernels' sum must equal the tokens that SGLang says it computed.
"""

from collections import Counter
from typing import Literal

Phase = Literal["prefill", "prefill_prefix", "decode"]
PHASES: tuple[Phase, ...] = ("prefill", "prefill_prefix", "decode")


class CoverageCounter:
    """Cumulative token · layer counts of one scheduler process."""

    def __init__(self) -> None:
        self.layers = 0
        self._counts: Counter[tuple[Phase, str]] = Counter()

    def add(self, phase: Phase, kernel: str, tokens: int) -> None:
        """Count `tokens` query tokens of one layer, computed by `kernel`; `tokens` of 0 is not recorded."""
        if tokens:
            self._counts[phase, kernel] += tokens

    def snapshot(self) -> dict[str, object]:
        """`{"layers": L, "tokens": {"<phase>/<kernel>": token · layers}}`, ready for JSON."""
        return {
            "layers": self.layers,
            "tokens": {f"{phase}/{kernel}": count for (phase, kernel), count in sorted(self._counts.items())},
        }


COUNTER = CoverageCounter()
"""The one counter of this process. The backend sets `layers` when it is built."""
