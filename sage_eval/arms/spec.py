"""The arms of a benchmark or probe, as they are written on the command line.

    triton,fa3,sage_attn+fa3,sage_attn:variant=int8-fp8,smooth_k=off

An arm is `BACKEND` or `PREFILL+DECODE`; settings of `sage_attn` follow a colon. A part that is a `name=value` without
a colon belongs to the arm before it. Everything else is the same for all arms.
"""

from collections.abc import Collection
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from sage_eval.attention.settings import AttentionSettings
from sage_eval.engine.options import SAGE, ArmOptions
from sage_eval.errors import UsageError


class ArmSpec(BaseModel):
    """One backend (or two, for prefill and decode) and its settings; `name` is what the user wrote."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    arguments: dict[str, Any]
    """Of `ArmOptions.from_arguments`."""

    def __str__(self) -> str:
        return self.name


def parse_arms(text: str, beside: Collection[str] = ()) -> list[ArmSpec]:
    """The arms in `text`, in order; arguments named `beside` may stand among any arm's settings.

    Raises `UsageError` for a repeated arm, or a setting that cannot be.
    """
    specs: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        if "=" in part and ":" not in part:
            if not specs or ":" not in specs[-1]:
                raise UsageError(f"{part!r} follows no arm with settings: write BACKEND:{part}")
            specs[-1] += f",{part}"
        elif part:
            specs.append(part)
    if not specs:
        raise UsageError("no arm is named: give --arms such as fa3,sage_attn")
    if repeated := next((spec for spec in specs if specs.count(spec) > 1), None):
        raise UsageError(f"arm {repeated} is named twice: an arm is compared with others, not with itself")
    return [_arm(spec, beside) for spec in specs]


def _arm(spec: str, beside: Collection[str]) -> ArmSpec:
    backend, colon, rest = spec.partition(":")
    prefill, plus, decode = backend.partition("+")
    if not prefill or (plus and not decode) or (colon and not rest):
        raise UsageError(f"arm {spec!r}: write BACKEND, PREFILL+DECODE, or either with :setting=value,…")
    # Values stay text, as in the environment: YAML would read `smooth_k=off` as false.
    pairs = [pair.partition("=") for pair in rest.split(",") if rest]
    if odd := next((name for name, equals, _ in pairs if not equals), None):
        raise UsageError(f"arm {spec!r}: {odd!r} is not of the form name=value")
    settings = {name.strip(): value.strip() for name, _, value in pairs}
    own = {name: settings.pop(name) for name in beside if name in settings}
    if settings and SAGE not in (prefill, decode):
        raise UsageError(f"arm {spec!r}: {', '.join(settings)} is a setting of {SAGE}, which this arm does not run")
    settings = AttentionSettings.from_mapping(settings).model_dump(exclude_unset=True)
    backends = {f"{phase}_attention_backend": name for phase, name in (("prefill", prefill), ("decode", decode))}
    return ArmSpec(name=spec, arguments=(backends if plus else {"attention_backend": prefill}) | settings | own)


def role(options: ArmOptions) -> Literal["floor", "control", "candidate"]:
    """A `sage_attn` arm is a candidate, or, with INT4, the control; whatever is exact is a floor."""
    if not options.sage_prefill or options.attention is None:
        return "floor"
    variant = options.attention.variant
    return "floor" if variant == "exact" else "control" if variant.startswith("int4") else "candidate"
