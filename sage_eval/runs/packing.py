"""Making a finished run small enough to publish: what the arms share is kept once.

Each arm's process writes its own files, whole, so that arms can run side by side. When all are there, the arms beside
the baseline are rewritten as what differs from it, and the prompts of all arms become one file. Every prompt's hash is
in the baseline's samples; text is kept of those on which the candidate lost most, the others' is in the data set, at
(task, doc_id).
"""

from collections.abc import Mapping
from typing import Any

from sage_eval.runs import columns
from sage_eval.runs.comparison import Comparison
from sage_eval.runs.files import read_jsonl_zst, write_jsonl_zst
from sage_eval.runs.folder import PROMPTS, SAMPLES, SCHEMA_VERSION, Run
from sage_eval.runs.worst import losses

KEPT = 20
"""Prompts whose text is kept, for each judged task or group."""


def pack(run: Run) -> None:
    """Rewrite samples that are not yet packed, of a run whose arms are all finished. A second call changes nothing."""
    baseline, *others = run.arms.values()
    digest = baseline.samples_digest
    for arm in others:
        header = next(read_jsonl_zst(arm.folder / SAMPLES))
        # Files of version 1 stay what they are.
        if header["schema_version"] == columns.VERSION and header["baseline"] is None:
            write_jsonl_zst(arm.folder / SAMPLES, columns.encode(arm.samples, (digest, baseline.samples)))


def keep_prompts(run: Run, comparison: Comparison) -> None:
    """Make the arms' prompts one file, with the text of those on which the candidate lost most. Does so once."""
    found = [arm.folder / PROMPTS for arm in run.arms.values() if (arm.folder / PROMPTS).exists()]
    if not found:
        return
    path = run.folder / PROMPTS
    known = {line["hash"]: line for line in (read_jsonl_zst(path) if path.exists() else ()) if "hash" in line}
    lost = losses(run, comparison).values()
    wanted = {loss.both[0].prompt for ranked in lost for loss in ranked[:KEPT]} - known.keys()
    for source in found:
        new: Mapping[str, dict[str, Any]] = {
            line["hash"]: line for line in read_jsonl_zst(source) if line.get("hash") in wanted
        }
        known |= new
        wanted -= new.keys()
    write_jsonl_zst(path, [{"schema_version": SCHEMA_VERSION}, *known.values()])
    for source in found:
        source.unlink()
