"""`manifest.json`: what was asked, and the provenance of the run."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from sage_eval.statistics.verdict import METRICS
from sage_eval.store.provenance import devices, git_state, host, versions
from sage_eval.store.spec import ArmSpec, contents


class Manifest(BaseModel):
    """`manifest.json`; `registration` fixes items and margins before the first answer, see there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    created: datetime
    command: str
    arguments: dict[str, Any]
    given: list[str]
    mode: str
    seed: int
    arms: list[str]
    versions: dict[str, str]
    host: dict[str, Any]
    devices: list[dict[str, Any]]
    model: dict[str, Any]
    git: dict[str, Any] | None
    registration: str | None = None


Told = tuple[Manifest, Iterable[ArmSpec]]
"""A run's manifest, and what its arms were told."""


def differing(then: Told, now: Told) -> list[tuple[str, str, str]]:
    """What may make two runs' numbers differ: a name and what each run says of it, – where it is absent."""
    sides = [_stated(manifest) | contents(specs) for manifest, specs in (then, now)]
    names = dict.fromkeys([*sides[0], *sides[1]])
    rows = [(name, str(sides[0].get(name, "–")), str(sides[1].get(name, "–"))) for name in names]
    return [row for row in rows if row[1] != row[2] and "" not in row]


def _stated(manifest: Manifest) -> dict[str, Any]:
    git = manifest.git
    gpus = dict.fromkeys(f"{device['name']}, driver {device['driver']}" for device in manifest.devices)
    return {
        **manifest.versions,
        "code": git["commit"][:12] + " and changes" * git["dirty"] if git else "an installed package",
        "GPU": "; ".join(gpus) or "none",
        "CPU": f"{manifest.host['cpu']}, {manifest.host['cores']} cores",
        "model": manifest.model["sha256"][:16],
        "items and margins": (manifest.registration or "")[:16],
    }


def registration(arguments: Mapping[str, Any]) -> str:
    """SHA-256 over what decides items and margins: a dry run prints it, so that it can be published before the run."""
    names = ("tasks", "limit", "seed", "task_args", "margin", "min", "mode", "until")
    defaults = {name: metric.margin for name, metric in METRICS.items()}
    asked = {name: arguments.get(name) for name in names} | {"default_margins": defaults}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def collect(
    arguments: dict[str, Any], given: list[str], arms: list[str], model: dict[str, Any], command: str
) -> Manifest:
    """The manifest of a run that is about to start: `arguments` are all settings, `given` those that were typed."""
    return Manifest(
        created=datetime.now(UTC).replace(microsecond=0),
        command=command,
        arguments=arguments,
        given=given,
        mode=arguments["mode"],
        seed=arguments["seed"],
        arms=arms,
        versions=versions(),
        host=host(),
        devices=devices(),
        model=model,
        git=git_state(),
        registration=registration(arguments),
    )
