"""A run as lm-eval writes one: for each arm a folder with `results_DATE.json` and `samples_TASK_DATE.jsonl`."""

import json
from collections.abc import Mapping
from typing import Any

from sage_eval.store.files import plain
from sage_eval.store.folder import Arm, Run
from sage_eval.store.samples import Sample

_OURS = ("schema_version", "metrics", "resampled")
"""What an arm's results hold beside lm-eval's own."""
_NUMBERS = ("NaN", "Infinity", "-Infinity")


def lm_eval(run: Run) -> dict[str, bytes]:
    """`ARM/MODEL/…` for each arm.

    Documents are not stored: `doc` has the columns that results are grouped by, the hashes are of what was asked, and a
    long prompt has its two ends.
    """
    from lm_eval.utils import hash_string, sanitize_model_name

    name = run.manifest.model["name"]
    date = f"{run.manifest.created:%Y-%m-%dT%H-%M-%S.%f}"
    files: dict[str, bytes] = {}
    for arm in run.arms.values():
        folder = f"{arm.name}/{sanitize_model_name(name)}"
        tasks: dict[str, list[dict[str, Any]]] = {}
        for sample in arm.samples:
            tasks.setdefault(sample.task, []).append(_sample(sample, run.prompts[sample.prompt]))
        hashes = {
            task: hash_string("".join(row["doc_hash"] + row["prompt_hash"] + row["target_hash"] for row in rows))
            for task, rows in tasks.items()
        }
        results = _results(arm) | {
            "task_hashes": hashes,
            "model_source": arm.record.spec.lm,
            "model_name": name,
            "model_name_sanitized": sanitize_model_name(name),
            "system_instruction": arm.record.spec.system_instruction,
            "fewshot_as_multiturn": arm.record.spec.fewshot_as_multiturn,
            "total_evaluation_time_seconds": str(arm.record.seconds["evaluate"]),
        }
        files[f"{folder}/results_{date}.json"] = json.dumps(results, indent=2, ensure_ascii=False).encode()
        for task, rows in tasks.items():
            lines = "".join(json.dumps(plain(row), ensure_ascii=False) + "\n" for row in rows)
            files[f"{folder}/samples_{task}_{date}.jsonl"] = lines.encode()
    return files


def _results(arm: Arm) -> dict[str, Any]:
    """lm-eval's results, with numbers that JSON has not as lm-eval writes them."""
    found = {name: value for name, value in arm.results.items() if name not in _OURS}
    for name in ("results", "groups"):
        if name in found:
            found[name] = {
                task: {key: float(value) if value in _NUMBERS else value for key, value in row.items()}
                for task, row in found[name].items()
            }
    return found


def _sample(sample: Sample, prompt: Mapping[str, Any]) -> dict[str, Any]:
    from lm_eval.utils import hash_string

    scores = [
        [str(value), str(greedy)] if sample.greedy else str(value)
        for value, greedy in zip(sample.logprobs, sample.greedy or sample.logprobs, strict=True)
    ]
    responses = scores or sample.generated
    context = [prompt["context"]] if "context" in prompt else []
    return {
        "doc_id": sample.doc_id,
        "doc": sample.cell,
        "target": str(sample.target),
        "arguments": {
            f"gen_args_{i}": {f"arg_{j}": _whole(part) for j, part in enumerate([*context, *request])}
            for i, request in enumerate(prompt["requests"])
        },
        "resps": [[response] for response in responses],
        "filtered_resps": responses,
        "filter": sample.filter,
        "metrics": list(sample.metrics),
        "doc_hash": hash_string(f"{sample.task}/{sample.doc_id}"),
        "prompt_hash": sample.prompt,
        "target_hash": hash_string(str(sample.target)),
        **sample.metrics,
    }


def _whole(part: Any) -> Any:
    """A part of a request; of a long text its two ends."""
    return f"{part['head']} […] {part['tail']}" if isinstance(part, dict) and "characters" in part else part
