"""Making a finished run small enough to publish: what the arms share is kept once.

Each arm's process writes its own files, whole, so that arms can run side by side. When all are there, the arms beside
the baseline are rewritten as what differs from it, and the prompts of all arms become one file. That has every prompt's
hash (in the baseline's samples), and the text of those prompts whose answers changed most; the others' text is in the
data set, at (task, doc_id).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sage_eval.runs import columns
from sage_eval.runs.files import read_jsonl_zst, write_jsonl_zst
from sage_eval.runs.folder import PROMPTS, SAMPLES, SCHEMA_VERSION, Run
from sage_eval.runs.records import Sample

KEPT = 20
"""Prompts whose text is kept, of the whole run and of each task."""
FEWEST, PROMPTS_IN_ALL = 3, 200
"""Where tasks are many, as MMLU's subjects, each keeps fewer: examples take room."""


def pack(run: Run) -> None:
    """Rewrite what is not yet packed in a run whose arms are all finished. A second call changes nothing."""
    baseline, *others = run.arms.values()
    digest = baseline.samples_digest
    for arm in others:
        header = next(read_jsonl_zst(arm.folder / SAMPLES))
        # Files of version 1 stay what they are.
        if header["schema_version"] == columns.VERSION and header["baseline"] is None:
            write_jsonl_zst(arm.folder / SAMPLES, columns.encode(arm.samples, (digest, baseline.samples)))
    found = [arm.folder / PROMPTS for arm in run.arms.values() if (arm.folder / PROMPTS).exists()]
    if found:
        _merge_prompts(run, found)
        for path in found:
            path.unlink()


def _merge_prompts(run: Run, found: Sequence[Path]) -> None:
    path = run.folder / PROMPTS
    known = {line["hash"]: line for line in (read_jsonl_zst(path) if path.exists() else ()) if "hash" in line}
    wanted = worst(run) - known.keys()
    for source in found:
        new: Mapping[str, dict[str, Any]] = {
            line["hash"]: line for line in read_jsonl_zst(source) if line.get("hash") in wanted
        }
        known |= new
        wanted -= new.keys()
    write_jsonl_zst(path, [{"schema_version": SCHEMA_VERSION}, *known.values()])


def worst(run: Run, kept: int = KEPT) -> set[str]:
    """Hashes of the prompts whose answers changed most from the baseline to the candidate: `kept` of all and of each
    task, fewer a task where tasks are many.

    Those whose score changed come first, then the largest change of a log-probability decides.
    """
    baseline = next(iter(run.arms.values()))
    candidate = next(arm for arm in run.arms.values() if arm.record.spec.role == "candidate")
    before = {sample.key: sample for sample in baseline.samples}
    tasks: dict[str, dict[str, tuple[bool, float]]] = {}
    for sample in candidate.samples:
        change = _change(before.get(sample.key), sample)
        ranks = tasks.setdefault(sample.task, {})
        ranks[sample.prompt] = max(change, ranks.get(sample.prompt, change))
    each = min(kept, max(FEWEST, PROMPTS_IN_ALL // max(1, len(tasks))))
    everything = {prompt: rank for ranks in tasks.values() for prompt, rank in ranks.items()}
    return {
        prompt
        for ranks, count in (*((ranks, each) for ranks in tasks.values()), (everything, kept))
        for prompt in sorted(ranks, key=lambda prompt: ranks[prompt], reverse=True)[:count]
    }


def _change(old: Sample | None, new: Sample) -> tuple[bool, float]:
    if old is None or len(old.logprobs) != len(new.logprobs):
        return True, 0.0
    moved = max((abs(a - b) for a, b in zip(old.logprobs, new.logprobs, strict=True)), default=0.0)
    return old.metrics != new.metrics, moved
