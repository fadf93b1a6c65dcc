"""A run folder: its names, its schema, and reading it back.

    manifest.json              what was asked, on which machine, with which versions, and the command to repeat it
    arms/<name>/spec.json      what the arm was told
    arms/<name>/log.txt        everything the engine said
    arms/<name>/results.json.zst    lm-eval's own results (older runs: results.json)
    arms/<name>/samples.jsonl.zst   the answered items (`records.Sample`), by column (`columns`)
    arms/<name>/topk.npz       the k most probable tokens at each position of the texts, where asked for
    arms/<name>/answers.journal     while the arm runs: what is finished of it (`engine.journal`)
    arms/<name>/arm.json       written last: this arm is finished; its fingerprint, times, coverage
    prompts.jsonl.zst          prompts by hash: in full those on which the candidate lost most (`packing`)
    comparison.json            paired statistics
    fidelity.json              KLD and its company, where top-k log-probabilities were taken
    logits.json, drift.json, …   what `sage-eval probe` and `bench` measured, where they were told to write here
    report.md                  the table
    report.html, figures/*.svg   the same with figures: one page that needs nothing else, and its figures one by one

Every file carries `schema_version`; `load` reads all versions ever written.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from sage_eval.errors import DataError
from sage_eval.runs import columns
from sage_eval.runs.files import check_version, read_json, read_jsonl_zst, read_record, validate
from sage_eval.runs.manifest import Manifest
from sage_eval.runs.records import Sample
from sage_eval.runs.spec import ArmSpec

SCHEMA_VERSION = 1
MANIFEST, COMPARISON, PROMPTS, REPORT = "manifest.json", "comparison.json", "prompts.jsonl.zst", "report.md"
FIDELITY, TOPK = "fidelity.json", "topk.npz"
HTML, FIGURES = "report.html", "figures"
SPEC, LOG, RESULTS, SAMPLES, ARM, ERROR = (
    "spec.json", "log.txt", "results.json.zst", "samples.jsonl.zst", "arm.json", "error.json"
)  # fmt: skip
OLD_RESULTS = "results.json"
JOURNAL = "answers.journal"


class ArmRecord(BaseModel):
    """`arm.json`: proof that an arm was finished, and what its engine reported."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1]
    fingerprint: str
    spec: ArmSpec
    items: int
    seconds: dict[str, float]
    engine: dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """A finished arm. Samples and lm-eval's results are read when first asked for."""

    folder: Path
    record: ArmRecord
    base: "Arm | None" = None  # what packed samples are relative to

    @property
    def name(self) -> str:
        """The arm's role: `baseline`, `candidate`, or a calibration arm's name."""
        return self.record.spec.name

    @property
    def backend(self) -> str:
        """The attention backend that ran, as the engine reports it, or as it was asked for."""
        return str(self.record.engine.get("attention_backend") or self.record.spec.backend or "default")

    @cached_property
    def samples(self) -> list[Sample]:
        """All items of this arm in lm-eval's order."""
        path = self.folder / SAMPLES
        header, *lines = read_jsonl_zst(path)
        check_version(path, header, SCHEMA_VERSION, columns.VERSION)
        if header["schema_version"] == columns.VERSION:
            try:
                found = columns.decode([header, *lines], self._baseline(header["baseline"]))
            except (ValueError, KeyError, IndexError, TypeError) as error:  # pydantic's error is a ValueError
                raise DataError(f"{path} is damaged ({str(error).splitlines()[0]}): run again with --fresh") from None
        else:
            found = [validate(Sample, line, path) for line in lines]
        if len(found) != self.record.items:
            raise DataError(f"{path} has {len(found)} items, {ARM} says {self.record.items}")
        return found

    def _baseline(self, digest: str | None) -> list[Sample]:
        """The baseline's samples, which must be those that this arm's were packed against."""
        if digest is None:
            return []
        base = self.base or read_arm(self.folder.parent / "baseline")
        if base is None or base.samples_digest != digest:
            raise DataError(f"{self.folder / SAMPLES} belongs to another baseline than is here: run again with --fresh")
        return base.samples

    @property
    def samples_digest(self) -> str:
        """SHA-256 of the samples file, by which packed arms are tied to their baseline."""
        try:
            return hashlib.sha256((self.folder / SAMPLES).read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(f"cannot read {self.folder / SAMPLES}: {error.strerror}") from None

    @cached_property
    def results(self) -> dict[str, Any]:
        """lm-eval's results as it returned them, without the samples."""
        path = self.folder / RESULTS
        if path.exists():
            value: Any = next(read_jsonl_zst(path), {})
        else:
            path = self.folder / OLD_RESULTS
            value = read_json(path)
        check_version(path, value, SCHEMA_VERSION)
        return dict(value)


@dataclass(frozen=True)
class Run:
    """A run folder with its finished arms, baseline first."""

    folder: Path
    manifest: Manifest
    arms: dict[str, Arm]

    @cached_property
    def prompts(self) -> dict[str, dict[str, Any]]:
        """Prompts by hash; long ones as their two ends, and with an empty context where only the hash was kept."""
        header, *lines = read_jsonl_zst(self.folder / PROMPTS)
        check_version(self.folder / PROMPTS, header, SCHEMA_VERSION)
        known = {line["hash"]: line for line in lines}
        bare = {
            sample.prompt: {"hash": sample.prompt, "task": sample.task, "doc_id": sample.doc_id, "context": "",
                            "requests": []}
            for sample in next(iter(self.arms.values())).samples
            if sample.prompt not in known
        }  # fmt: skip
        return known | bare

    @cached_property
    def comparison(self) -> Any:
        """`comparison.json` as it was written; the paired statistics (`sage_eval.runs.comparison.Comparison`)."""
        from sage_eval.runs.comparison import Comparison

        return read_record(Comparison, self.folder / COMPARISON)

    @cached_property
    def fidelity(self) -> Any:
        """`fidelity.json` (`sage_eval.runs.fidelity.FidelityRecord`), or None where no arm took top-k lists."""
        from sage_eval.runs.fidelity import FidelityRecord

        path = self.folder / FIDELITY
        return read_record(FidelityRecord, path) if path.exists() else None


def read_arm(folder: Path) -> Arm | None:
    """The finished arm in `folder`, or None where there is none; `DataError` where its record is damaged."""
    path = folder / ARM
    return Arm(folder, read_record(ArmRecord, path)) if path.exists() else None


def read_manifest(folder: Path) -> Manifest:
    """What was asked for in `folder`, whether its arms are finished or not; `DataError` where it is damaged."""
    return read_record(Manifest, folder / MANIFEST)


def load(folder: str | Path) -> Run:
    """Read and check a run folder; `DataError` says which file is missing, cut or of an unknown version."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a run folder")
    manifest = read_manifest(folder)
    arms = {name: read_arm(folder / "arms" / name) for name in manifest.arms}
    missing = [name for name, arm in arms.items() if arm is None]
    if missing:
        raise DataError(f"{folder} is unfinished: arm {', '.join(missing)} is missing; repeat: {manifest.command}")
    found = {name: arm for name, arm in arms.items() if arm}
    base = next(iter(found.values()), None)
    return Run(folder, manifest, {n: arm if arm is base else replace(arm, base=base) for n, arm in found.items()})
