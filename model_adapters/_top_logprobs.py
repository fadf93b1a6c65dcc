"""What is kept of a rolling text beside its log-likelihood: each window's targets and most probable tokens."""

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from sage_eval.engine.requests import Score, ScoreRequest
from sage_eval.engine.topk import TextWindow
from sage_eval.errors import UsageError

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


def checked(value: int | str, config: Any) -> int:
    """`top_logprobs` as a number of tokens, at most the vocabulary; `UsageError` where it is no number of tokens."""
    try:
        count = int(value)
    except (TypeError, ValueError):
        count = -1
    if count < 0:
        raise UsageError(f"top_logprobs={value!r}: must be 0 (none) or the number of tokens to keep at each position")
    return min(count, int(config.get_text_config().vocab_size)) if count else 0


def text_window(request: "Instance", start: int, window: ScoreRequest, score: Score) -> TextWindow:
    """The window that begins `start` tokens into the text of `request`, with its score."""
    assert score.top is not None
    targets = np.array(window.continuation, np.int32)
    prompt = hashlib.sha256(np.array(window.context, np.int32).tobytes() + b"|" + targets.tobytes())
    return TextWindow(
        task=request.task_name or "",
        doc_id=request.doc_id or 0,
        start=start,
        context=len(window.context),
        prompt=prompt.hexdigest()[:32],
        targets=targets,
        logprobs=np.array(score.logprobs, np.float32),
        top=score.top,
    )
