"""lm-eval generation arguments to SGLang sampling parameters."""

import functools
import logging
from collections.abc import Mapping
from typing import Any

from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from sage_eval.engine import sampling
from sage_eval.errors import UsageError
from sage_eval.parsing import nearest

logger = logging.getLogger(__name__)

_OURS = ("max_new_tokens", "stop", "skip_special_tokens")
_SAMPLING = tuple(name for name in sampling.KINDS if name not in _OURS)
_NEUTRAL = {"num_beams": 1, "use_cache": True, "early_stopping": False}
"""Arguments of transformers' `generate` that some tasks carry and that change nothing at these values."""
_OTHER_NAMES = {
    "seed": "; SGLang calls it 'sampling_seed'",
    "num_beams": ": it has no beam search, and a greedy text in its place would be another result",
}


def sampling_parameters(
    gen_kwargs: Mapping[str, Any], *, default_max: int, eos: str | None, defaults: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """SGLang's sampling parameters for one request, and the stop sequences to cut its text at.

    Greedy unless `do_sample` or a temperature above 0 says otherwise. `defaults` (from `generation_config.json`) hold
    where the request says nothing. Raises `UsageError` for an argument that SGLang does not have or cannot take.
    """
    if not isinstance(gen_kwargs, Mapping):
        raise UsageError(f"generation arguments must be a mapping, not {type(gen_kwargs).__name__}")
    given = {name: value for name, value in gen_kwargs.items() if value is not None}
    until = given.get("until", [])
    stops = [until] if isinstance(until, str) else until
    if not isinstance(stops, list | tuple) or not all(isinstance(stop, str) for stop in stops):
        raise UsageError(f"until={until!r}: must be a text or a list of texts")
    given["until"] = list(stops)
    try:
        kwargs = dict(normalize_gen_kwargs(given, default_max))
    except (TypeError, ValueError) as error:
        raise UsageError(f"generation arguments {dict(gen_kwargs)!r}: {error}") from None
    until = handle_stop_sequences(kwargs.pop("until"), eos=eos)
    max_new = kwargs.pop("max_gen_toks")
    sample = kwargs.pop("do_sample")
    own = {name: value for name, value in (defaults or {}).items() if sample or name not in SAMPLED}
    kwargs = own | kwargs
    temperature = kwargs.pop("temperature", 1.0) if sample else 0.0
    kwargs.pop("temperature", None)
    for name, value in list(kwargs.items()):
        if name in _NEUTRAL and value == _NEUTRAL[name]:
            del kwargs[name]
        elif name not in _SAMPLING:
            hint = _OTHER_NAMES.get(name) or nearest(name, (*_SAMPLING, "max_gen_toks", "do_sample", "until"))
            raise UsageError(f"SGLang has no generation argument {name}={value!r}{hint}")
    if kwargs.get("top_k") == 0:
        kwargs["top_k"] = -1  # off, as in transformers
    if kwargs.get("repetition_penalty", 1.0) != 1.0:
        _say_once("repetition_penalty: SGLang penalises generated tokens only, transformers the prompt's as well")
    if "" in until:
        _say_once("until holds an empty text: it stops nothing here, where lm-eval's hf stops after the first token")
    found = {**kwargs, "temperature": temperature, "max_new_tokens": max_new, "stop": [text for text in until if text]}
    sampling.check(found)
    return found, until


SAMPLED = ("temperature", "top_p", "top_k", "min_p")
"""Parameters that a greedy request does not read."""


def generation_defaults(model: str, **kwargs: Any) -> dict[str, Any]:
    """The sampling parameters of a model's `generation_config.json`, which `hf` obeys too.

    Warns of each setting there that changes texts under `hf` and not here. `kwargs` go to `from_pretrained`.
    """
    from transformers import GenerationConfig

    try:
        config = GenerationConfig.from_pretrained(model, **{k: v for k, v in kwargs.items() if v is not None})
    except OSError:
        return {}
    found = {name: value for name, value in config.to_diff_dict().items() if value is not None}
    obeyed = {name: found[name] for name in (*SAMPLED, "repetition_penalty", "min_new_tokens") if name in found}
    for name in sorted(set(found) - set(obeyed) - _HARMLESS):
        _say_once(f"generation_config.json of {model}: {name}={found[name]!r} is not obeyed; lm-eval's hf does")
    return obeyed


_HARMLESS = {
    "bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "transformers_version", "do_sample",
    "use_cache", "cache_implementation", "max_length", "_from_model_config", "trust_remote_code",
}  # fmt: skip
"""Nothing that changes a text here: SGLang reads EOS itself, lm-eval sets sampling and length."""


@functools.cache
def _say_once(message: str) -> None:
    logger.warning(message)
