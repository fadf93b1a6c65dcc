"""What a generation request may hold. SGLang checks ranges when a request arrives, but types only deep in its
scheduler, which dies of them, and with it every later request of the run.
"""

from collections.abc import Mapping
from typing import Any

from sage_eval.errors import UsageError

NUMBER, COUNT, FLAG, TEXT = (int, float), (int,), (bool,), (str,)

KINDS: dict[str, tuple[type, ...]] = {
    "temperature": NUMBER, "top_p": NUMBER, "top_k": COUNT, "min_p": NUMBER,
    "frequency_penalty": NUMBER, "presence_penalty": NUMBER, "repetition_penalty": NUMBER,
    "min_new_tokens": COUNT, "json_schema": TEXT, "regex": TEXT, "ebnf": TEXT, "ignore_eos": FLAG,
    "stop_token_ids": (list,), "stop_regex": (str, list), "logit_bias": (dict,), "sampling_seed": COUNT,
    "max_new_tokens": COUNT, "stop": (list,), "skip_special_tokens": FLAG,
}  # fmt: skip
"""SGLang's sampling parameters that we send, with the types that are safe to send."""


def check(sampling: Mapping[str, Any]) -> None:
    """Raise `UsageError`, with name and value, for a parameter that would not survive the way to SGLang's scheduler."""
    for name, value in sampling.items():
        kinds = KINDS.get(name)
        if kinds is None or value is None:  # unknown ones and ranges are refused by SGLang itself, before the scheduler
            continue
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            raise UsageError(f"{name}={value!r}: must be {wanted}, not {type(value).__name__}")
    for name, kind in (("stop", str), ("stop_regex", str), ("stop_token_ids", int)):
        parts = sampling.get(name)
        wrong = [part for part in parts if not isinstance(part, kind)] if isinstance(parts, list) else []
        if wrong:
            raise UsageError(f"{name}={parts!r}: must hold {kind.__name__} only, not {type(wrong[0]).__name__}")
    for token, bias in (sampling.get("logit_bias") or {}).items():
        if not (str(token).isdigit() and isinstance(bias, int | float)):
            raise UsageError(f"logit_bias={{{token!r}: {bias!r}}}: must map token ids to numbers")
