"""A run folder: its names, its schema, and reading it back.

    manifest.json              what was asked, on which machine, with which versions, and the command to repeat it
    arms/<name>/spec.json      what the arm was told
    arms/<name>/log.txt        everything the engine said
    arms/<name>/results.json.zst    lm-eval's own results (older runs: results.json)
    arms/<name>/samples.parquet     the answered items (`samples.Sample`; older runs: samples.jsonl.zst)
    arms/<name>/topk.npz       the k most probable tokens at each position of the texts, where asked for
    arms/<name>/quick.json     with `--servers`: what `sage-eval quick` found of the arm's server
    arms/<name>/answers.journal     while the arm runs: what is finished of it (`engine.journal`)
    arms/<name>/running.jsonl       until all arms are finished: its items' scores as they come (`store.running`)
    arms/<name>/prompts.jsonl.zst   until all arms are finished: its prompts
    arms/<name>/arm.json       written last: this arm is finished; its fingerprint, times, coverage
    prompts.jsonl.zst          prompts by hash: in full those on which the candidate lost most
    comparison.json            paired statistics
    looks.json                 with `--until`: every look at the items, and why the run stopped
    fidelity.json              KLD and its company, where top-k log-probabilities were taken
    divergence.parquet         KLD at each position of the texts, by arm
    logits.json, drift.json, …   what `sage-eval probe` and `bench` measured, where they were told to write here
    report.md                  the report
    report.html, figures/*.svg   the same with figures: one page that needs nothing else, and its figures one by one

Every file carries a schema version; `load` reads all versions ever written.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from sage_eval.errors import DataError
from sage_eval.store import parquet, topk
from sage_eval.store.comparison import Comparison
from sage_eval.store.fidelity import FidelityRecord
from sage_eval.store.files import check_version, read_json, read_jsonl_zst, read_record
from sage_eval.store.looks import Looks
from sage_eval.store.manifest import Manifest, Told
from sage_eval.store.old import samples as old
from sage_eval.store.samples import Sample
from sage_eval.store.spec import ArmSpec

SCHEMA_VERSION = 1
MANIFEST, COMPARISON, PROMPTS, REPORT = "manifest.json", "comparison.json", "prompts.jsonl.zst", "report.md"
FIDELITY, POSITIONS, TOPK = "fidelity.json", "divergence.parquet", "topk.npz"
LOOKS = "looks.json"
HTML, FIGURES = "report.html", "figures"
SPEC, LOG, RESULTS, SAMPLES, ARM = "spec.json", "log.txt", "results.json.zst", parquet.FILE, "arm.json"
OLD_RESULTS, OLD_SAMPLES = "results.json", old.FILE
JOURNAL, RUNNING, QUICK = "answers.journal", "running.jsonl", "quick.json"


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
    base: "Arm | None" = None  # what packed samples of older runs are relative to

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
        if path.exists() or not (self.folder / OLD_SAMPLES).exists():
            found = parquet.read(path)
        else:
            path = self.folder / OLD_SAMPLES
            found = old.read(path, self._packed_against)
        if len(found) != self.record.items:
            raise DataError(f"{path} has {len(found)} items, {ARM} says {self.record.items}")
        return found

    def _packed_against(self, digest: str) -> list[Sample]:
        base = self.base or read_arm(self.folder.parent / "baseline")
        path = base.folder / OLD_SAMPLES if base else None
        if not path or not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise DataError(f"{self.folder / OLD_SAMPLES} belongs to another baseline than is here: repeat the run")
        return base.samples if base else []

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

    def check(self) -> None:
        """Read every part of the arm; `DataError` names the first one that is missing or damaged."""
        _ = self.samples, self.results
        topk.read(self.folder / TOPK, self.name)
        if (self.folder / PROMPTS).exists():
            read_prompts(self.folder / PROMPTS)


@dataclass(frozen=True)
class Run:
    """A run folder with its finished arms, baseline first."""

    folder: Path
    manifest: Manifest
    arms: dict[str, Arm]

    @property
    def told(self) -> Told:
        """The manifest, and what the arms were told."""
        return self.manifest, [arm.record.spec for arm in self.arms.values()]

    @cached_property
    def prompts(self) -> dict[str, dict[str, Any]]:
        """Prompts by hash; long ones as their two ends, and with an empty context where only the hash was kept."""
        known = read_prompts(self.folder / PROMPTS)
        bare = {
            sample.prompt: {"hash": sample.prompt, "task": sample.task, "doc_id": sample.doc_id, "context": "",
                            "requests": []}
            for sample in next(iter(self.arms.values())).samples
            if sample.prompt not in known
        }  # fmt: skip
        return known | bare

    @cached_property
    def comparison(self) -> Comparison:
        """`comparison.json` as it was written: the paired statistics."""
        return read_record(Comparison, self.folder / COMPARISON)

    @cached_property
    def fidelity(self) -> FidelityRecord | None:
        """`fidelity.json`, or None where no arm took top-k lists."""
        path = self.folder / FIDELITY
        return read_record(FidelityRecord, path) if path.exists() else None

    @cached_property
    def looks(self) -> Looks | None:
        """`looks.json`, or None where all items were asked at once."""
        path = self.folder / LOOKS
        return read_record(Looks, path) if path.exists() else None

    def judged(self, comparison: Comparison, fidelity: FidelityRecord | None) -> "Run":
        """The same run with what was computed now in place of what its files say; what was read is kept."""
        run = replace(self)
        vars(run).update(vars(self) | {"comparison": comparison, "fidelity": fidelity})
        return run


def read_prompts(path: Path) -> dict[str, dict[str, Any]]:
    """The prompts in a file by their hash; `DataError` where it is missing or damaged."""
    header, *lines = [*read_jsonl_zst(path)] or [None]
    check_version(path, header, SCHEMA_VERSION)
    return {line["hash"]: line for line in lines}


def read_arm(folder: Path, base: Arm | None = None) -> Arm | None:
    """The finished arm in `folder`, or None where there is none; `DataError` where its record is damaged."""
    path = folder / ARM
    return Arm(folder, read_record(ArmRecord, path), base) if path.exists() else None


def read_manifest(folder: Path) -> Manifest:
    """What was asked for in `folder`, whether its arms are finished or not; `DataError` where it is damaged."""
    return read_record(Manifest, folder / MANIFEST)


def load(folder: str | Path) -> Run:
    """Read and check a run folder; `DataError` says which file is missing, cut or of an unknown version."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a run folder")
    manifest = read_manifest(folder)
    return assemble(folder, manifest, {name: read_arm(folder / "arms" / name) for name in manifest.arms})


def assemble(folder: Path, manifest: Manifest, arms: Mapping[str, Arm | None]) -> Run:
    """The run of `arms`, which are None where they are not finished: `DataError` names those."""
    if missing := [name for name, arm in arms.items() if arm is None]:
        again = manifest.command.replace(" --fresh", "")  # which would delete the arms that are finished
        raise DataError(f"{folder} is unfinished: arm {', '.join(missing)} is missing; repeat: {again}")
    found = {name: arm for name, arm in arms.items() if arm}
    base = next(iter(found.values()), None)
    # An arm that knows its baseline keeps what was read of it.
    known = {n: arm if arm is base or arm.base is base else replace(arm, base=base) for n, arm in found.items()}
    return Run(folder, manifest, known)
