"""What surrounds the model: what is known before a start, whose cache a file is, what is kept of a text."""

import hashlib
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
from lm_eval.models.utils import resolve_max_length

from sage_eval.engine.checks import load_config
from sage_eval.engine.options import RESERVED_TOKENS, ArmOptions
from sage_eval.engine.requests import Score, ScoreRequest
from sage_eval.engine.tokens import Tokens
from sage_eval.engine.topk import TextWindow
from sage_eval.errors import UsageError

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


logger = logging.getLogger(__name__)

DEFAULT_MAX_LENGTH = 2048
DECIDING = ("pretrained", "tokenizer", "add_bos_token", "prefix_token_id", "max_length")
"""Our own arguments on which it depends whether an engine can be started."""


def known(
    pretrained: str,
    tokenizer: str | None = None,
    add_bos_token: bool | None = None,
    prefix_token_id: int | None = None,
    **arguments: Any,
) -> tuple[ArmOptions, Any, Tokens]:
    """The options, the model's configuration and its tokenizer: what is known without an engine."""
    options = ArmOptions.from_arguments(pretrained, **arguments)
    config = load_config(options)
    tokens = Tokens.load(
        tokenizer or options.engine.get("tokenizer_path") or pretrained,
        add_bos=add_bos_token,
        prefix=None if prefix_token_id is None else int(prefix_token_id),
        revision=options.engine.get("revision"),
        trust_remote_code=options.engine.get("trust_remote_code"),
    )
    tokens.check_vocabulary(int(config.get_text_config().vocab_size))
    return options, config, tokens


def check_place(base_url: Any, serve: Any) -> None:
    """Raise `UsageError` where two of them are to answer."""
    if base_url and serve:
        raise UsageError("base_url names running servers, and serve=True starts one: give one of them")


def window_length(options: ArmOptions, config: Any, tokenizer: Any) -> int:
    """The longest input in tokens: what was asked for, else the model's own window."""
    own = int(resolve_max_length(config, tokenizer, default=DEFAULT_MAX_LENGTH))
    length = own if options.max_length is None else options.max_length
    if "context_length" in options.engine:
        length = int(options.engine["context_length"]) - RESERVED_TOKENS
    if length > own:
        logger.warning(
            "max_length=%d is beyond the model's window of %d tokens: it was not made for longer texts", length, own
        )
    return length


OWNER = "sage_eval_owner"
"""Entry of the cache file that says whose answers it holds."""


def claim(cache_hook: Any, identity: str) -> None:
    """Mark a new cache file as that of `identity`.

    Raises `UsageError` where another model, backend or setting made it: lm-eval would hand out its answers as ours.
    """
    kept = cache_hook.dbdict
    if kept is None:
        return
    if len(kept) and kept.get(OWNER) != identity:
        raise UsageError(
            f"use_cache: {kept.filename} holds answers of another model, backend or setting; name a file for each, or "
            "delete this one"
        )
    kept[OWNER] = identity


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
