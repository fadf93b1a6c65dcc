"""Requests and results of an arm, in token ids: how they are put to SGLang and how its replies are read."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sage_eval.engine import topk
from sage_eval.engine.topk import TopK
from sage_eval.errors import EngineError

Payload = dict[str, Any]
"""Arguments of SGLang's `Engine.generate`, equally the JSON body of a server's `/generate`."""
Reply = dict[str, Any]
"""SGLang's answer to one payload: `output_ids`, `text`, `meta_info`."""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """Log-probability of `continuation` after `context`; both non-empty."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    @property
    def prompt(self) -> tuple[int, ...]:
        """What enters the model: the last token is only predicted."""
        return self.context + self.continuation[:-1]


@dataclass(frozen=True, slots=True)
class Score:
    """Natural log-probabilities, one a continuation token, and whether each token was the most probable one.

    `greedy` and `top`, the most probable tokens at each position, are None where the caller did not ask for them.
    """

    logprobs: tuple[float, ...]
    greedy: bool | None
    top: TopK | None = None

    @property
    def total(self) -> float:
        return math.fsum(self.logprobs)


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """A prompt and SGLang sampling parameters (`max_new_tokens`, `temperature`, `stop`, …).

    `rid` names the request to what runs in the scheduler process; SGLang makes a name up for one without.
    """

    prompt: tuple[int, ...]
    sampling: dict[str, Any] = field(default_factory=dict)
    rid: str | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """Generated token ids and SGLang's reason for stopping (`stop`, `length`)."""

    tokens: tuple[int, ...]
    finish_reason: str


def score_payload(group: Sequence[ScoreRequest], *, greedy: bool, top: int = 0) -> Payload:
    """The engine request for score requests of one prompt, whose last tokens' log-probabilities follow it.

    `greedy` also asks for the most probable token at each position, `top` for that many.
    """
    prompt, start = group[0].prompt, min(len(request.context) for request in group)
    return {
        "input_ids": list(prompt),
        "sampling_params": {"max_new_tokens": 0, "temperature": 0.0},
        "return_logprob": True,
        # SGLang reports log-probabilities from this position on, the first of them always empty.
        "logprob_start_len": start - 1 if start < len(prompt) else -1,
        "top_logprobs_num": max(top, int(greedy)),
        "token_ids_logprob": sorted({request.continuation[-1] for request in group}),
        **(topk.REQUEST if top else {}),
    }


def read_score(request: ScoreRequest, reply: Reply, *, greedy: bool, top: int = 0) -> Score:
    """The score of one request. Raises `EngineError` where a log-probability is missing, NaN or infinite."""
    meta = reply["meta_info"]
    scored = len(request.continuation) - 1  # tokens of the continuation that are part of the prompt
    try:
        after = {token: value for value, token, *_ in meta["output_token_ids_logprobs"][0]}
        values = [entry[0] for entry in _tail(meta.get("input_token_logprobs"), scored)]
        values.append(after[request.continuation[-1]])
        lists = TopK.read(meta, scored) if top else None
        best: list[Any] = [] if lists is None else lists.logprobs[:, 0].tolist()
        if greedy and lists is None:
            best = [entry[0][0] for entry in _tail(meta.get("input_top_logprobs"), scored)]
            best.append(meta["output_top_logprobs"][0][0][0])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise EngineError(
            f"SGLang's reply to a prompt of {len(request.prompt)} tokens lacks logprobs ({error!r})"
        ) from error
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in (*values, *best)):
        raise EngineError(
            f"SGLang returned NaN or missing logprobs for a prompt of {len(request.prompt)} tokens: the attention "
            "backend or the model's dtype is broken here; try another attention_backend or dtype"
        )
    # Both come from one tensor, so the most probable token compares equal to itself, ties included.
    is_greedy = all(value >= top for value, top in zip(values, best, strict=True)) if greedy else None
    return Score(tuple(values), is_greedy, lists)


def _tail(entries: Sequence[Any] | None, count: int) -> Sequence[Any]:
    if count == 0:
        return []
    if entries is None or len(entries) <= count:  # the first entry is always empty and never counts
        raise IndexError(f"{count} input logprobs expected, {len(entries or [])} entries returned")
    return entries[-count:]


def generate_payload(request: GenerateRequest) -> Payload:
    """The engine request for a generation."""
    named = {} if request.rid is None else {"rid": request.rid}
    return {"input_ids": list(request.prompt), "sampling_params": dict(request.sampling), **named}


def read_generation(reply: Reply) -> Generation:
    """Generated tokens of a reply."""
    reason = reply["meta_info"].get("finish_reason") or {}
    return Generation(tuple(reply["output_ids"]), str(reason.get("type")))
