"""lm-eval generation arguments to SGLang sampling parameters."""

from collections.abc import Mapping
from typing import Any

from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from sage_eval.engine.options import nearest
from sage_eval.errors import UsageError

_SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty",
    "min_new_tokens", "json_schema", "regex", "ebnf", "ignore_eos", "stop_token_ids", "stop_regex", "logit_bias",
    "sampling_seed",
)  # fmt: skip
_NEUTRAL = {"num_beams": 1, "use_cache": True, "early_stopping": False}
"""Arguments of transformers' `generate` that some tasks carry and that change nothing at these values."""


def sampling_parameters(
    gen_kwargs: Mapping[str, Any], *, default_max: int, eos: str | None
) -> tuple[dict[str, Any], list[str]]:
    """SGLang's sampling parameters for one request, and the stop sequences to cut its text at.

    Greedy unless `do_sample` or a temperature above 0 says otherwise. Raises `UsageError` for an argument SGLang does
    not have.
    """
    if not isinstance(gen_kwargs, Mapping):
        raise UsageError(f"generation arguments must be a mapping, not {type(gen_kwargs).__name__}")
    kwargs = dict(normalize_gen_kwargs(dict(gen_kwargs), default_max))
    until = handle_stop_sequences(kwargs.pop("until"), eos=eos)
    max_new = kwargs.pop("max_gen_toks")
    sample = kwargs.pop("do_sample")
    temperature = kwargs.pop("temperature", 1.0) if sample else 0.0
    for name, value in list(kwargs.items()):
        if name in _NEUTRAL and value == _NEUTRAL[name]:
            del kwargs[name]
        elif name not in _SAMPLING:
            known = (*_SAMPLING, "max_gen_toks", "do_sample", "until")
            raise UsageError(f"SGLang has no generation argument {name}={value!r}{nearest(name, known)}")
    stops = [text for text in until if text]
    return {**kwargs, "temperature": float(temperature), "max_new_tokens": max_new, "stop": stops}, until
