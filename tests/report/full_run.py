"""A run folder with everything that a report can show, made without an engine: its numbers are computed from items.

Three kinds of task (multiple choice in subjects, a text's likelihood, retrieval in cells) and all roles of arms. An
arm's damage d adds noise of d nats to each likelihood, and loses the share d/4 of the needles.
"""

import json
import math
from pathlib import Path

import numpy as np
from scipy.special import log_softmax

from sage_eval.compare.run import judge
from sage_eval.report import pages
from sage_eval.report.comparison import report
from sage_eval.statistics.divergence import divergence
from sage_eval.statistics.fidelity import fidelity
from sage_eval.statistics.paired import paired_difference
from sage_eval.store.fidelity import FidelityRecord, Histogram, PositionBin, TaskFidelity, kl_by_position
from sage_eval.store.files import read_json, write_json, write_jsonl_zst
from sage_eval.store.folder import Run, load

ARMS = {
    "baseline": ("baseline", 0.0),
    "candidate": ("candidate", 0.02),
    "repeat": ("floor", 0.0),
    "exact": ("floor", 0.004),
    "control": ("control", 0.6),
    "stress-4": ("stress", 0.01),
    "stress-16": ("stress", 0.1),
    "stress-64": ("stress", 0.9),
}
HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)> $\\frac{1}{0}$ & {{ 7 * 7 }} https://example.org"
STORED = Path(__file__).parents[1] / "store" / "stored" / "schema_1_calibrated"
EDGES = [10 ** (exponent / 4) for exponent in range(-32, 9)]


def build(folder: Path, subjects: int = 6, items: int = 40, documents: int = 40) -> Run:
    """Write the folder and judge it as `sage-eval report` does."""
    names = [f"tiny_mmlu_{['history', '$law_&_<i>$', 'anatomy'][i % 3]}_{i}" for i in range(subjects)]
    prompts: dict[str, dict] = {}
    for arm, (role, damage) in ARMS.items():
        samples = [*_choices(names, items, damage, arm, prompts), *_texts(documents, damage, arm, prompts),
                   *_needles(damage, arm, prompts)]  # fmt: skip
        _write_arm(folder, arm, role, samples, names)
    manifest = read_json(STORED / "manifest.json")
    manifest["arms"] = list(ARMS)
    write_json(folder / "manifest.json", manifest)
    write_jsonl_zst(folder / "prompts.jsonl.zst", [{"schema_version": 1}, *prompts.values()])
    write_json(folder / "fidelity.json", _fidelity().model_dump(mode="json"))
    run = judge(load(folder), {"tiny_mmlu": 0.3}, {"accuracy": 0.02})
    pages.write(report(run), folder)
    return run


def _noise(arm, damage, *shape):
    return damage * np.random.default_rng(sum(map(ord, arm))).normal(size=shape)


def _choices(names, items, damage, arm, prompts):
    rng = np.random.default_rng(1)
    noise = _noise(arm, damage, len(names), items, 4)
    for t, task in enumerate(names):
        logits = rng.normal(size=(items, 4))
        logits[np.arange(items), np.arange(items) % 4] += 1.5
        for i in range(items):
            text = f"{HOSTILE} Which letter is number {i} of {task}?\nAnswer:"
            line = {"task": task, "doc_id": i, "context": text, "requests": [[" A"], [" B"], [" C"], [" D"]]}
            logprobs = log_softmax(logits[i] + noise[t, i]).round(5).tolist()
            acc = float(np.argmax(logprobs) == i % 4)
            yield _sample(prompts, line, metrics={"acc": acc}, logprobs=logprobs, target=i % 4)


def _texts(documents, damage, arm, prompts):
    noise = _noise(arm, damage, documents)
    for i in range(documents):
        words = 50 + i
        long = {"head": "The beginning. ", "tail": " The end.", "characters": 20_000}
        line = {"task": "tiny_text", "doc_id": i, "context": "\n\n", "requests": [[long if i % 2 else "word " * words]]}
        nll = words * (3 + 0.01 * i + 0.1 * damage + 0.01 * noise[i])
        yield _sample(prompts, line, metrics={"word_perplexity": (-nll, words)}, logprobs=[-nll])


def _needles(damage, arm, prompts):
    rng = np.random.default_rng(2)
    for i in range(4 * 5 * 8):
        length, depth = 512 << (i % 4), (i // 4 % 5) / 4
        missed = rng.random() < (0.4 if length == 4096 and depth == 0.5 else 0.02)
        found = not missed and rng.random() >= damage / 4
        line = {
            "task": "tiny_needle",
            "doc_id": i,
            "context": f"Find {i}." + " hay" * 800,
            "requests": [[{"until": []}]],
        }
        cell = {"family": "single", "length": length, "depth": depth}
        answer = {"generated": [str(i) if found else "lost"], "target": str(i), "cell": cell}
        yield _sample(prompts, line, metrics={"acc": float(found)}, **answer)


def _sample(prompts, line, **fields):
    name = f"{line['task']}/{line['doc_id']}"
    prompts[name] = {"hash": name, **line}
    return {"task": line["task"], "doc_id": line["doc_id"], "prompt": name, **fields}


def _write_arm(folder, arm, role, samples, names):
    target = folder / "arms" / arm
    template = "baseline" if role in ("baseline", "floor") else "candidate"
    record = json.loads((STORED / "arms" / template / "arm.json").read_text())
    record |= {"items": len(samples), "spec": record["spec"] | {"name": arm, "role": role}}
    results: dict[str, dict] = {}
    for task in dict.fromkeys(sample["task"] for sample in samples):
        [(metric, values)] = _columns([sample for sample in samples if sample["task"] == task]).items()
        pairs = [value for value in values if isinstance(value, tuple)]
        score = math.exp(-sum(a for a, _ in pairs) / sum(b for _, b in pairs)) if pairs else float(np.mean(values))
        results[task] = {f"{metric},none": score}
    group = float(np.mean([results[name]["acc,none"] for name in names]))
    results = {"tiny_mmlu": {"acc,none": group}, **results}
    lower = {"tiny_text": {"word_perplexity": False}}
    write_json(
        target / "results.json",
        {"schema_version": 1, "results": results, "groups": {"tiny_mmlu": results["tiny_mmlu"]},
         "group_subtasks": {"tiny_mmlu": names}, "higher_is_better": lower},
    )  # fmt: skip
    write_jsonl_zst(target / "samples.jsonl.zst", [{"schema_version": 1}, *samples])
    write_json(target / "arm.json", record)


def _columns(samples):
    return {name: [sample["metrics"][name] for sample in samples] for name in samples[0]["metrics"]}


def _fidelity() -> FidelityRecord:
    rng = np.random.default_rng(3)
    n, vocabulary = 3_000, 60
    logits = 3 * rng.normal(size=(n, vocabulary))
    base, true, document = log_softmax(logits, axis=1), rng.integers(0, vocabulary, n), np.arange(n) // 60
    tasks = []
    for arm, (role, damage) in list(ARMS.items())[1:]:
        cand = log_softmax(logits + _noise(arm, damage, n, vocabulary), axis=1)
        distributions = divergence(base, cand)
        scores = [logprobs[np.arange(n), true] for logprobs in (base, cand)]
        counts = np.histogram(distributions.kl, EDGES)[0].tolist()
        bins = [
            PositionBin(low=64 * b, high=64 * (b + 1), n=n // 10,
                        difference=paired_difference(-scores[0][b::10], -scores[1][b::10]))
            for b in range(10)
        ]  # fmt: skip
        tasks.append(
            TaskFidelity(
                task="tiny_text", arm=arm, role=role, k=vocabulary,
                statistics=fidelity(distributions, *scores, document),
                kld_histogram=Histogram(edges=EDGES, counts=counts, below=n - sum(counts)), by_position=bins,
                kl_by_position=kl_by_position(np.arange(n) % 60 * 100, distributions.kl, document),
            )
        )  # fmt: skip
    return FidelityRecord(schema_version=1, baseline="baseline", tasks=tasks)
