"""Measures several arms on articles of WikiText-2, and writes the record as each is done."""

import functools
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sage_eval.attention.source import source_hash
from sage_eval.engine.arm import open_arm
from sage_eval.engine.options import ArmOptions
from sage_eval.errors import UsageError
from sage_eval.probes.arms import parse_arms
from sage_eval.probes.articles import first_tokens
from sage_eval.probes.determinism.probe import Opened, probe
from sage_eval.probes.determinism.record import DETERMINISM, Determinism, Made
from sage_eval.runs.files import write_json


def measure(
    model: str,
    arms: str,
    *,
    prompts: int,
    tokens: int,
    chunk: int,
    generated: int,
    common: Mapping[str, Any],
    output: Path | None,
    command: str,
    say: Callable[[str], None],
) -> tuple[Determinism, Path]:
    """The record of `arms` (see `arms.parse_arms`), and its folder; `common` are engine arguments of all arms.

    Raises as `probe.probe`, and `UsageError`, `PrerequisiteError` and `DataError` for what is wrong before an engine
    starts.
    """
    from model_adapters._tokens import Tokens
    from sage_eval.runs.manifest import describe_model, devices, find_model, host, versions

    wanted: list[tuple[str, Opened]] = []
    for arm in parse_arms(arms):
        arguments = {"max_length": tokens + generated, **common, **arm.arguments}
        if taken := {"chunked_prefill_size", "disable_radix_cache"} & arguments.keys():
            raise UsageError(f"{', '.join(sorted(taken))}: the probe sets it itself, way by way; leave it out")
        ArmOptions.from_arguments(model, **arguments)  # whatever is wrong is said before an engine starts
        wanted.append((arm.name, functools.partial(_opened, model, arguments)))
    source = find_model(model)
    folder = output or Path("results") / f"determinism-{source.resolve().name}"
    chosen = first_tokens(Tokens.load(model, add_bos=None, prefix=None).encode, prompts, tokens)
    made = Made(
        created=datetime.now(UTC).replace(microsecond=0).isoformat(), command=command, source=source_hash(),
        model=describe_model(model, source), versions=versions(), host=host(), devices=devices(),
    )  # fmt: skip
    record = Determinism(made=made, model=model, tokens=tokens, chunk=chunk, generated=generated, arms=[])
    for result in probe(wanted, chosen, chunk=chunk, generated=generated):
        record = record.model_copy(update={"arms": [*record.arms, result]})
        write_json(folder / DETERMINISM, record.model_dump(mode="json"))
        say(f"{result.arm}: {result.failure or 'done'}")
    return record, folder


def _opened(model: str, arguments: Mapping[str, Any], **more: Any) -> Any:
    return open_arm(ArmOptions.from_arguments(model, **arguments, **more))
