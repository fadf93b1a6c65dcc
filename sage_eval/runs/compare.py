"""A comparison from configuration to run folder: the arms, then the paired statistics."""

import contextlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from sage_eval.config import RunConfig
from sage_eval.errors import PrerequisiteError, UsageError
from sage_eval.runs import folder as layout
from sage_eval.runs import manifest as manifests
from sage_eval.runs.files import write_bytes, write_json
from sage_eval.runs.folder import Run
from sage_eval.runs.packing import keep_prompts, pack
from sage_eval.runs.side_by_side import Display, run_arms
from sage_eval.runs.spec import ArmSpec, arms
from sage_eval.runs.stressed import with_checkpoints

if TYPE_CHECKING:
    from sage_eval.report.sections import Section


class Quiet:
    """A `Display` that shows nothing."""

    @contextlib.contextmanager
    def arm(self, name: str, backend: str) -> Iterator[Callable[[str], None]]:
        """Show nothing."""
        yield lambda _line: None

    def kept(self, name: str, backend: str) -> None:
        """Show nothing."""


def compare(
    config: RunConfig,
    *,
    fresh: bool = False,
    display: Display | None = None,
    argv: list[str] | None = None,
    measured: "Callable[[Path], Sequence[Section]]" = lambda _: (),
) -> Run:
    """Run what is not yet finished and return the complete run, with `comparison.json` and the reports written.

    Finished arms with the same fingerprint are taken over, so that an interrupted call is resumed by repeating it.
    `measured(folder)` is what else the reports show: what probes and benchmarks left there. `UsageError` where the
    folder holds another comparison (unless `fresh`), or whatever an arm fails with.
    """
    display = display or Quiet()
    model = manifests.find_model(config.model)
    described = manifests.describe_model(config.model, model)
    specs = arms(config, described["sha256"], manifests.versions(), manifests.devices())
    target = output_folder(config, specs)
    if fresh:
        _clear(target)
    specs = with_checkpoints(config, specs, target)
    finished = {spec.name: _finished(target, spec) for spec in specs}
    manifest = manifests.collect(config, [spec.name for spec in specs], described, argv)
    if all(finished.values()) and (target / layout.MANIFEST).exists():
        # Nothing will run: machine, code and date stay those of the run, only what was asked now is new.
        asked = manifest.model_dump(include={"command", "arguments", "given", "arms"})
        manifest = layout.read_manifest(target).model_copy(update=asked)
    write_json(target / layout.MANIFEST, manifest.model_dump(mode="json"))
    for spec in specs:
        if finished[spec.name]:
            display.kept(spec.name, spec.backend or "SGLang's choice")
    run_arms([spec for spec in specs if not finished[spec.name]], target, display, config.parallel)
    pack(layout.load(target))
    return summarise(target, config.min, config.margin, config.fail_on, sections=measured(target))


def summarise(
    target: Path,
    minimum: Mapping[str, float],
    margin: Mapping[str, float] | None = None,
    fail_on: Sequence[str] = (),
    *,
    sections: "Sequence[Section]" = (),
    keep: bool = True,
) -> Run:
    """Compare the arms of a folder whose arms are finished, and write the JSON files and the reports into it.

    The reports show `sections` too. Without `keep` nothing is written: for a folder that cannot be.
    """
    from sage_eval.report import html
    from sage_eval.report.markdown import render
    from sage_eval.runs import comparison, distances

    run = layout.load(target)
    result = comparison.compare(run.manifest, run.arms, minimum, margin or {}, fail_on)
    if not keep:
        vars(run)["comparison"] = result  # where the property would keep what it had read
        return run
    write_json(target / layout.COMPARISON, result.model_dump(mode="json"), indent=None)
    keep_prompts(run, result)
    if measured := distances.measure(run):
        write_json(target / layout.FIDELITY, measured.model_dump(mode="json"), indent=None)
        run = layout.load(target)
    write_bytes(target / layout.REPORT, render(run, sections).encode())
    html.write(run, sections)
    return run


def output_folder(config: RunConfig, specs: list[ArmSpec]) -> Path:
    """`--output`, or a name that the same configuration always gets, so that repeating a command resumes it.

    Calibration arms do not change the name: they can be added to a comparison that is finished.
    """
    if config.output:
        return config.output
    model = re.sub(r"[^A-Za-z0-9.]+", "-", Path(config.model).name).strip("-") or "model"
    digest = sha256(
        json.dumps([spec.fingerprint() for spec in specs if spec.role in ("baseline", "candidate")]).encode()
    ).hexdigest()[:8]
    return Path("results") / f"{model}-{config.candidate}-{digest}"


def _finished(target: Path, spec: ArmSpec) -> bool:
    arm = layout.read_arm(target / "arms" / spec.name)
    if arm is None:
        return False
    # Both computed now: a field that a later version adds, with its default, does not make a finished arm another one.
    if arm.record.spec.fingerprint() != spec.fingerprint():
        old, new = arm.record.spec.model_dump(), spec.model_dump()
        changed = ", ".join(f"{name}: {old[name]} -> {new[name]}" for name in new if old[name] != new[name])
        raise UsageError(
            f"{target} holds arm {spec.name} of another comparison ({changed}): choose another --output, or --fresh"
        )
    return True


def _clear(target: Path) -> None:
    """Remove an earlier run, and only that: a folder that is something else is refused."""
    if not target.exists():
        return
    if not (target / layout.MANIFEST).exists():
        raise UsageError(f"{target} is not a run folder, so --fresh does not delete it: choose another --output")
    try:
        for name in ("arms", layout.FIGURES):
            shutil.rmtree(target / name, ignore_errors=False) if (target / name).exists() else None
        for name in (
            layout.MANIFEST, layout.COMPARISON, layout.FIDELITY, layout.PROMPTS, layout.REPORT, layout.HTML,
        ):  # fmt: skip
            (target / name).unlink(missing_ok=True)
    except OSError as error:
        raise PrerequisiteError(f"cannot delete {error.filename}: {error.strerror}") from None
