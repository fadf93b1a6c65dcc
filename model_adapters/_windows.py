"""What fits into the model's window, what is cut to fit, and what is refused."""

import logging
from collections.abc import Callable, Sequence
from typing import Literal

from sage_eval.engine.requests import ScoreRequest
from sage_eval.errors import UsageError

logger = logging.getLogger(__name__)

Truncation = Literal["refuse", "left"]


class Window:
    """The longest input, `length` tokens, and what to do with generation prompts that exceed it.

    A context to be scored loses its left end, as with lm-eval's `hf` model; a generation prompt is refused unless
    `truncation` is "left", since what a task asks for may stand at its beginning. Warnings count what was cut.
    """

    def __init__(self, length: int, truncation: Truncation = "refuse") -> None:
        if truncation not in ("refuse", "left"):
            raise UsageError(f"truncation={truncation!r}: must be 'refuse' or 'left'")
        self.length = length
        self.truncation = truncation
        self.truncated = 0
        """Contexts and prompts cut so far."""

    def fit_scores(
        self, pairs: Sequence[tuple[list[int], list[int]]], name: Callable[[int], str] = "request {}".format
    ) -> list[ScoreRequest]:
        """(context, continuation) pairs inside the window. The last token is predicted and takes no place in it.

        Raises `UsageError` for a context or continuation without tokens, or a continuation longer than the window;
        `name` says which request the pair at an index is of.
        """
        for index, (context, continuation) in enumerate(pairs):
            if len(continuation) > self.length:
                raise UsageError(
                    f"{name(index)}: a continuation of {len(continuation)} tokens exceeds the window of {self.length}; "
                    "raise max_length"
                )
            if not context:
                raise UsageError(
                    f"{name(index)}: the context is white space alone, which becomes part of the continuation, so that "
                    "nothing is left to condition it; give the task a context, or an empty one"
                )
            if not continuation:
                raise UsageError(
                    f"{name(index)}: the continuation has no token of its own: it is empty, or the tokenizer merges it "
                    "with the end of the context into one token; change the choice or the task's target_delimiter"
                )
        room = self.length + 1
        over = [size for context, tail in pairs if (size := len(context) + len(tail)) > room]
        if over:
            self.truncated += len(over)
            logger.warning(
                "%d of %d contexts exceed %d tokens and lost their left end (longest: %d)",
                len(over), len(pairs), self.length, max(over) - 1,
            )  # fmt: skip
        return [ScoreRequest(tuple(context[-(room - len(tail)) :]), tuple(tail)) for context, tail in pairs]

    def fit_prompts(
        self, prompts: Sequence[tuple[list[int], int]], name: Callable[[int], str] = "request {}".format
    ) -> list[tuple[int, ...]]:
        """(prompt, new tokens) pairs: the prompts, each with room for its new tokens.

        Raises `UsageError` for an empty prompt, for prompts too long, unless they may be cut, and for more new tokens
        than the window has; `name` says which request the one at an index is.
        """
        for index, (prompt, _) in enumerate(prompts):
            if not prompt:
                raise UsageError(f"{name(index)}: the prompt is empty, and there is nothing to go on from")
        most = max((new for _, new in prompts), default=0)
        if most >= self.length:
            raise UsageError(f"max_gen_toks={most} fills the window of {self.length} tokens; lower it")
        excess = [over for prompt, new in prompts if (over := len(prompt) + new - self.length) > 0]
        if excess:
            message = f"{len(excess)} of {len(prompts)} prompts with room for their answers exceed {self.length} tokens"
            if self.truncation == "refuse":
                raise UsageError(f"{message} (by up to {max(excess)}); raise max_length or pass truncation=left")
            self.truncated += len(excess)
            logger.warning("%s and lost their left end (up to %d tokens)", message, max(excess))
        return [tuple(prompt[-(self.length - new) :]) for prompt, new in prompts]
