"""Which texts are served, and at which of their positions the distributions are compared. Seeded and pure."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sage_eval.errors import DataError, UsageError

CLASSES = {"short": (64, 511), "medium": (512, 2047), "long": (2048, 1 << 30)}
"""Length class → fewest and most tokens of its prompts; the longest is the caller's or the model's limit."""


@dataclass(frozen=True)
class Prompt:
    """A piece of one document. `positions` are places whose *next* token's distribution is wanted, ascending."""

    kind: str
    document: int
    tokens: tuple[int, ...]
    positions: tuple[int, ...]

    @property
    def targets(self) -> list[int]:
        """The true token after each position."""
        return [self.tokens[place + 1] for place in self.positions]

    @property
    def context(self) -> npt.NDArray[np.int64]:
        """Tokens of context at each position, the position's own included."""
        return np.array(self.positions, dtype=np.int64) + 1


def choose(
    documents: Sequence[Sequence[int]],
    *,
    prompts: int,
    positions: int,
    longest: int,
    seed: int,
    head: Sequence[int] = (),
) -> list[Prompt]:
    """`prompts` pieces of each length class with `positions` places in all; `documents` and `head` are token ids.

    Lengths are log-uniform within their class and at most `longest`. A class goes through the documents in random
    order and takes a piece at a random place from each, so that errors can be clustered by document. Each prompt
    begins with `head`, what the tokenizer puts before a text. The places are stratified over the depth of a prompt:
    one at random from each of as many equal stretches. `UsageError` where `longest` or `positions` leaves a class
    empty, `DataError` where no document is long enough for one.
    """
    rng = np.random.default_rng(seed)
    kinds = {kind: (low, min(high, longest)) for kind, (low, high) in CLASSES.items() if low <= longest}
    if not kinds:
        raise UsageError(f"prompts of at most {longest} tokens: at least {CLASSES['short'][0]} are needed")
    quotas = _shares(positions, len(kinds) * prompts)
    if quotas[-1] == 0:
        raise UsageError(f"--positions {positions} for {len(quotas)} prompts: ask for one each at least")
    chosen: list[Prompt] = []
    for kind, (low, high) in kinds.items():
        fitting = [index for index, ids in enumerate(documents) if len(head) + len(ids) >= low]
        if not fitting:
            raise DataError(f"no document has {low} tokens for a {kind} prompt: give longer texts")
        order = rng.permutation(fitting)
        for turn in range(prompts):
            document = int(order[turn % len(order)])
            body = documents[document]
            ceiling = min(high, len(head) + len(body))
            length = min(ceiling, int(np.exp(rng.uniform(np.log(low), np.log(ceiling + 1)))))
            begin = int(rng.integers(len(body) - (length - len(head)) + 1))
            tokens = (*head, *body[begin : begin + length - len(head)])
            places = _places(len(tokens) - 1, quotas[len(chosen)], rng)
            chosen.append(Prompt(kind, document, tokens, places))
    return chosen


def _shares(total: int, parts: int) -> list[int]:
    """`total` in `parts` nearly equal shares, the larger ones first."""
    return [len(share) for share in np.array_split(np.arange(total), parts)]


def _places(usable: int, count: int, rng: np.random.Generator) -> tuple[int, ...]:
    stretches = np.array_split(np.arange(usable), min(count, usable))
    return tuple(int(rng.choice(stretch)) for stretch in stretches)
