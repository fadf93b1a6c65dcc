"""Whether a run folder is whole and follows from its samples: hashes, schemas, counts, verdicts and tables."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sage_eval.compare import servers
from sage_eval.compare.run import again
from sage_eval.errors import DataError
from sage_eval.measure.quick.judge import judge
from sage_eval.measure.quick.record import QuickRecord
from sage_eval.render.sections import Report
from sage_eval.report import comparison, measurements
from sage_eval.store import folder as layout
from sage_eval.store import parquet
from sage_eval.store.comparison import Comparison
from sage_eval.store.fidelity import FidelityRecord
from sage_eval.store.files import plain, read_record
from sage_eval.store.folder import Run
from sage_eval.store.manifest import Manifest
from sage_eval.store.record import Record
from sage_eval.store.samples import Sample, prompt_hash
from sage_eval.store.spec import ArmSpec

EXACT = {"rel_tol": 1e-6, "abs_tol": 1e-9}
"""Two machines' sums differ by less."""
AGAIN = "; `sage-eval report` makes it of the samples"


def misses(folder: Path) -> list[str]:
    """A line for each thing that is missing, damaged or does not follow from the rest; none for a valid folder."""
    if not folder.is_dir():
        return ["it is not a folder"]
    found: list[str] = []

    def noted(check: Callable[[], Iterator[str]]) -> None:
        try:
            found.extend(check())
        except DataError as error:
            found.append(str(error).removeprefix(f"{folder}/"))

    records: dict[str, Any] = {}

    def read() -> Iterator[str]:
        records.update(measurements.read(folder))
        if not records and not (folder / layout.MANIFEST).exists():
            yield f"it holds neither {layout.MANIFEST} nor a record of a measurement"

    noted(read)
    if (folder / layout.MANIFEST).exists():
        noted(lambda: _run(folder, records))
    elif (folder / layout.REPORT).exists() and not found:
        noted(lambda: _page(folder, Report(folder.resolve().name, measurements.sections(folder, records))))
    return found


def schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schema of each file, by its name; a sample is a row of `samples.parquet`."""
    from sage_eval.measure import BENCH, PROBE, instrument

    models: dict[str, type[BaseModel]] = {
        layout.MANIFEST: Manifest, layout.SPEC: ArmSpec, layout.ARM: layout.ArmRecord, layout.SAMPLES: Sample,
        layout.COMPARISON: Comparison, layout.FIDELITY: FidelityRecord,
    }  # fmt: skip
    models[layout.QUICK] = QuickRecord
    models |= {f"{kind}.json": Record[instrument(kind).row] for kind in (*PROBE, *BENCH)}  # type: ignore[misc]
    return {name: model.model_json_schema() for name, model in models.items()}


def _run(folder: Path, records: Mapping[str, Any]) -> Iterator[str]:
    run = layout.load(folder)
    yield from _hashes(run)
    for arm in run.arms.values():
        arm.check()
        if (found := servers.record(arm)) and found.checks != judge(found):
            yield f"arms/{arm.name}: the checks of {layout.QUICK} do not follow from what it found"
    if (folder / layout.POSITIONS).exists():
        parquet.check(folder / layout.POSITIONS)
    stored = {layout.COMPARISON: run.comparison, layout.FIDELITY: run.fidelity}
    made = again(run, keep=False)
    for (name, old), new in zip(stored.items(), (made.comparison, made.fidelity), strict=True):
        yield from _differences(name, old, new)
    yield from _page(folder, comparison.report(run, measurements.sections(folder, records), figures={}))


def _hashes(run: Run) -> Iterator[str]:
    """What names a model, an arm or a prompt by its content."""
    model = run.manifest.model
    lines = "".join(f"{digest}  {file}\n" for file, digest in model["files"].items())
    if hashlib.sha256(lines.encode()).hexdigest() != model["sha256"]:
        yield f"{layout.MANIFEST}: the model's hash is not that of its files"
    of_run = run.arms["baseline"].record.spec.model_args.get("pretrained")
    for name, arm in run.arms.items():
        spec = arm.record.spec
        if read_record(ArmSpec, arm.folder / layout.SPEC) != spec:
            yield f"arms/{name}: {layout.SPEC} and {layout.ARM} tell of different arms"
        if spec.model_args.get("pretrained") == of_run and spec.model_hash != model["sha256"]:
            yield f"arms/{name}: it ran another model than {layout.MANIFEST} names"
    for name, prompt in layout.read_prompts(run.folder / layout.PROMPTS).items():
        requests, context = prompt["requests"], prompt.get("context")
        asked = requests if context is None else [[context, *request] for request in requests]
        # Of a long text the two ends are kept, and of most prompts the hash alone.
        if asked and '"head":' not in json.dumps(asked) and prompt_hash(asked) != name:
            yield f"{layout.PROMPTS}: {prompt['task']}, item {prompt['doc_id']}: its text has another hash"


def _differences(name: str, old: BaseModel | None, new: BaseModel | None) -> Iterator[str]:
    """One line: the first value that the samples give otherwise, and how many do."""
    stored, made = (None if record is None else plain(record.model_dump(mode="json")) for record in (old, new))
    found = [f"{place} is {a}, the samples give {b}" for place, a, b in _unequal(stored, made)]
    if found:
        yield f"{name}: {found[0]}" + (f" (and {len(found) - 1:,} more values)" if found[1:] else "") + AGAIN


def _unequal(old: Any, new: Any, place: str = "it") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old | new:
            yield from _unequal(old.get(key), new.get(key), key if place == "it" else f"{place}.{key}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (a, b) in enumerate(zip(old, new, strict=True)):
            names = [a.get(key) for key in ("task", "candidate", "arm", "metric")] if isinstance(a, dict) else []
            known = "/".join(name for name in names if isinstance(name, str))
            yield from _unequal(a, b, f"{place}.{known or number}")
    elif isinstance(old, float) and isinstance(new, float):
        if not math.isclose(old, new, **EXACT):
            yield place, old, new
    elif old != new:
        a, b = ("…" if isinstance(value, dict | list) else value for value in (old, new))
        yield place, a, b


def _page(folder: Path, report: Report) -> Iterator[str]:
    """The tables that people read."""
    path = folder / layout.REPORT
    if not path.exists():
        yield f"{layout.REPORT} is missing{AGAIN}"
    elif path.read_bytes() != report.markdown().encode():
        yield f"{layout.REPORT} does not follow from the folder{AGAIN}"
