"""What the probe is asked, and the work that follows from it: the same in every process."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from sage_eval.errors import DataError, PrerequisiteError, UsageError
from sage_eval.measure.base import TextPlan

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
    quotas = [len(share) for share in np.array_split(np.arange(positions), len(kinds) * prompts)]
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


def _places(usable: int, count: int, rng: np.random.Generator) -> tuple[int, ...]:
    stretches = np.array_split(np.arange(usable), min(count, usable))
    return tuple(int(rng.choice(stretch)) for stretch in stretches)


THREADS = min(8, os.cpu_count() or 1)
PENDING = 2 * THREADS
"""Prompts whose rows may wait to be reduced."""


class Asked(BaseModel):
    """What decides the work."""

    positions: int = Field(4096, ge=1, description="in all, sampled over length classes and depths")
    prompts: int = Field(32, ge=1, description="of each length class: short, medium, long")
    longest: int = Field(8192, ge=64, description="tokens of the longest prompt")
    continuations: int = Field(32, ge=0, description="prompts (short and medium) that are continued")
    generated: int = Field(64, ge=0, description="greedy tokens after each of them; 0: none")
    text: tuple[Path, ...] = Field((), description="file with one document; repeat it; default: WikiText-2's test set")
    seed: int = 0


class LogitsPlan(TextPlan, Asked):
    """What the probe is asked."""


@dataclass(frozen=True)
class Work:
    """What every arm does: `prompts`, then `tokens` greedy tokens after each of `continued`."""

    prompts: list[Prompt]
    vocabulary: int
    continued: list[tuple[int, ...]]
    tokens: int
    max_length: int
    tokenizer: Any

    @classmethod
    def of(cls, model: Path, asked: Asked) -> Self:
        """The work on `model`, whose longest prompt is at most what the model takes.

        Raises `UsageError`, `DataError` and `PrerequisiteError` where there is none.
        """
        from sage_eval.engine.checks import load_config
        from sage_eval.engine.options import ArmOptions
        from sage_eval.engine.tokens import Tokens

        config = load_config(ArmOptions(model=str(model))).get_text_config()
        longest = min(asked.longest, getattr(config, "max_position_embeddings", asked.longest))
        tokenizer = Tokens.load(str(model), add_bos=None, prefix=None)
        documents = [tokenizer.encode(page, add_special_tokens=False) for page in _documents(asked.text)]
        chosen = choose(
            documents, prompts=asked.prompts, positions=asked.positions, longest=longest, seed=asked.seed,
            head=tokenizer.encode(""),
        )  # fmt: skip
        continued = [prompt.tokens for prompt in chosen if prompt.kind != "long"][: asked.continuations]
        return cls(
            chosen, int(config.vocab_size), continued if asked.generated else [], asked.generated,
            max(longest, min(longest, CLASSES["medium"][1]) + asked.generated), tokenizer,
        )  # fmt: skip

    def decode(self, ids: Sequence[int]) -> str:
        """Tokens as text."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    @property
    def bytes_on_disk(self) -> int:
        """The baseline's distributions, and those of another arm's prompts that wait."""
        from sage_eval.measure.logits.tap import row_type

        rows = sorted(len(prompt.positions) for prompt in self.prompts)
        return (sum(rows) + sum(rows[-PENDING - 1 :])) * row_type(self.vocabulary).itemsize


def _documents(texts: Sequence[Path]) -> list[str]:
    from sage_eval.data.wikitext import documents, load_raw

    if not texts:
        return documents(load_raw("test"))
    try:
        return [path.read_text(encoding="utf-8") for path in texts]
    except (OSError, UnicodeDecodeError) as error:
        raise PrerequisiteError(f"--text: {error}; give files of UTF-8 text") from None
