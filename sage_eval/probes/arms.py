"""`BACKEND[+DECODE][:name=value,…]`: an arm of a probe or benchmark as one word of a command line."""

from typing import Any

from sage_eval.config import parse_pairs
from sage_eval.errors import UsageError


def parse_arm(word: str) -> dict[str, Any]:
    """Model arguments of `word`: `sage_attn+fa3:variant=int8-fp8` sets both backends and the variant.

    `UsageError` where it names no backend or has a setting that is not `name=value`.
    """
    backends, _, settings = word.partition(":")
    prefill, plus, decode = backends.partition("+")
    if not prefill or (plus and not decode):
        raise UsageError(f"arm {word!r}: want BACKEND, PREFILL+DECODE or BACKEND:name=value,…")
    try:
        arguments = dict(parse_pairs(settings))
    except ValueError as error:
        raise UsageError(f"arm {word!r}: {error}") from None
    if decode:
        return {"prefill_attention_backend": prefill, "decode_attention_backend": decode, **arguments}
    return {"attention_backend": prefill, **arguments}
