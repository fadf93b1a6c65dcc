"""Time and memory of all statistics of a run: MMLU's 14,042 questions and 250,000 token positions of WikiText-2.

    python benchmarks/paired_statistics.py              # a full run, and one ten times as large
    python benchmarks/paired_statistics.py --scale 1 --json

Inputs are synthetic (made first, not timed). Timed are: pairing the two arms' samples by item and prompt hash; accuracy
with strata, clusters, flips, near-ties and equivalence; fidelity from top-20 lists, clustered by document;
the verdict. Each scale runs in a process of its own; its peak memory is that of the whole process, inputs included.
Exit code 1 where a limit is missed: 5 s at scale 1; 60 s and 2 GB at scale 10.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from sage_eval.compare.pairing import pair
from sage_eval.statistics.changes import answer_changes
from sage_eval.statistics.divergence import divergence
from sage_eval.statistics.equivalence import equivalence, items_to_settle, minimum_detectable_effect
from sage_eval.statistics.fidelity import fidelity
from sage_eval.statistics.paired import flips, mean, paired_difference, paired_ratio_difference
from sage_eval.statistics.verdict import METRICS, Evidence, judge
from sage_eval.store.fidelity import kl_by_position
from sage_eval.store.samples import Sample

QUESTIONS, CHOICES, SUBJECTS = 14_042, 4, 57
POSITIONS, LIST, DOCUMENTS = 250_000, 20, 62
LIMITS = {1: (5.0, None), 10: (60.0, 2.0)}  # seconds, GB


def questions(count: int, noise: float, name: str) -> Any:
    """An arm's answers to `count` questions; the same questions for every arm, other rounding."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, CHOICES, count)
    logprobs = rng.normal(-8, 1, (count, CHOICES))
    logprobs[np.arange(count), truth] += 1.2
    logprobs += noise * np.random.default_rng(len(name)).normal(size=logprobs.shape)
    correct = (logprobs.argmax(axis=1) == truth).astype(int)
    samples = [
        Sample(
            task=f"mmlu_subject_{i % SUBJECTS}",
            doc_id=i,
            prompt=f"{i:032x}",
            metrics={"acc": int(correct[i])},
            logprobs=logprobs[i].tolist(),
        )
        for i in range(count)
    ]
    return SimpleNamespace(name=name, samples=samples)


def positions(count: int, folder: Path) -> dict[str, Any]:
    """Top-k lists and true tokens of both arms, as memory-mapped files: what a probe leaves on disk."""
    files = {name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, (count, LIST))
             for name, kind in (("base", "f4"), ("cand", "f4"), ("base_ids", "i4"), ("cand_ids", "i4"))}  # fmt: skip
    rng = np.random.default_rng(1)
    step = 50_000
    for start in range(0, count, step):
        size = min(step, count - start)
        logits = -np.sort(rng.exponential(2.0, (size, LIST + 4)), axis=1)
        logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True) * 1.1)
        noisy = logprobs + 0.02 * rng.normal(size=logprobs.shape)
        order = np.argsort(-noisy, axis=1)
        ids = (rng.integers(0, 100_000, (size, 1)) + np.arange(LIST + 4) * 7).astype("i4")
        files["base"][start : start + size] = logprobs[:, :LIST]
        files["base_ids"][start : start + size] = ids[:, :LIST]
        files["cand"][start : start + size] = np.take_along_axis(noisy, order, axis=1)[:, :LIST]
        files["cand_ids"][start : start + size] = np.take_along_axis(ids, order, axis=1)[:, :LIST]
    for file in files.values():
        file.flush()
    base_true = rng.normal(-3, 1.5, count).clip(max=0)
    cand_true = (base_true + rng.normal(0, 0.02, count)).clip(max=0)
    documents = np.sort(rng.integers(0, DOCUMENTS * max(1, count // POSITIONS), count))
    loaded = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in files}
    return {**loaded, "true": (base_true, cand_true), "documents": documents}


def accuracy(base: Any, cand: Any, seconds: dict[str, float]) -> Evidence:
    """All statistics of the questions."""
    start = time.perf_counter()
    pairs = [both for items in pair(base, cand).values() for both in items]
    seconds["pairing"] = time.perf_counter() - start
    start = time.perf_counter()
    columns = [np.array([sample.metrics["acc"] for sample in side]) for side in zip(*pairs, strict=True)]
    logprobs = [np.array([sample.logprobs for sample in side]) for side in zip(*pairs, strict=True)]
    subjects = [sample.task for sample, _ in pairs]
    best = np.sort(logprobs[0], axis=1)
    answer_changes(*(x.argmax(axis=1) for x in logprobs), *columns, base_margin=best[:, -1] - best[:, -2])
    difference = paired_difference(*columns, strata=subjects)
    paired_difference(*columns, clusters=subjects)
    equivalence(difference, 0.005)
    minimum_detectable_effect(difference)
    items_to_settle(difference, 0.005)
    flips(*columns)
    seconds["accuracy"] = time.perf_counter() - start
    harmed = np.where(np.arange(columns[0].size) % 10 == 0, 0, columns[0])
    control = {"control": paired_difference(columns[0], harmed)}
    return Evidence("mmlu", METRICS["accuracy"], difference, controls=control, baseline=mean(columns[0]), chance=0.25)


def measure(scale: int) -> dict[str, Any]:
    """Run everything once at `scale` times a full run; seconds by part and peak memory in GB."""
    seconds: dict[str, float] = {}
    arms = [questions(scale * QUESTIONS, noise, name) for name, noise in (("baseline", 0.0), ("candidate", 0.01))]
    evidence = [accuracy(*arms, seconds)]
    arms.clear()
    with tempfile.TemporaryDirectory() as folder:
        data = positions(scale * POSITIONS, Path(folder))
        base, cand = data["true"]
        start = time.perf_counter()
        lists = divergence(data["base"], data["cand"], data["base_ids"], data["cand_ids"])
        seconds["divergence"] = time.perf_counter() - start
        start = time.perf_counter()
        table = fidelity(lists, base, cand, data["documents"])
        floor = mean(0.1 * lists.kl, clusters=data["documents"])
        excess = paired_difference(0.1 * lists.kl, lists.kl, clusters=data["documents"])
        kl_by_position(np.arange(base.size) % 40_000, lists.kl, data["documents"])
        harmed = paired_ratio_difference(-base, 0.3 - base, np.ones_like(base), clusters=data["documents"])
        seconds["fidelity"] = time.perf_counter() - start
    evidence.append(Evidence("wikitext", METRICS["log_perplexity"], table.log_perplexity, controls={"control": harmed}))
    damage = {"control": replace(excess, value=100 * excess.value, low=None, high=None)}
    evidence.append(Evidence("wikitext KLD", METRICS["kl_divergence"], excess, controls=damage, baseline=floor))
    start = time.perf_counter()
    verdict = judge(evidence)
    seconds["verdict"] = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    total = sum(seconds.values())
    return {
        "scale": scale,
        "logprobs": scale * QUESTIONS * CHOICES,
        "positions": scale * POSITIONS,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "total_seconds": round(total, 3),
        "peak_gb": round(peak, 3),
        "verdict": verdict.kind,
    }


def main() -> int:
    """Measure the scales asked for, each in its own process, and hold them against their limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, nargs="+", default=[1, 10], help="times a full run (default: 1 10)")
    parser.add_argument("--json", action="store_true", help="one JSON line for each scale")
    options = parser.parse_args()
    if len(options.scale) == 1 and options.json:
        result = measure(options.scale[0])
        sys.stdout.write(json.dumps(result) + "\n")
        return int(missed(result))
    failed = False
    for scale in options.scale:
        command = [sys.executable, __file__, "--scale", str(scale), "--json"]
        result = json.loads(subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True).stdout)
        failed |= missed(result)
        parts = ", ".join(f"{name} {value:.2f}" for name, value in result["seconds"].items())
        line = (
            json.dumps(result)
            if options.json
            else (
                f"× {scale}: {result['logprobs']:,} logprobs, {result['positions']:,} positions: "
                f"{result['total_seconds']:.2f} s ({parts}), peak {result['peak_gb']:.2f} GB"
            )
        )
        sys.stdout.write(line + (" LIMIT MISSED\n" if missed(result) and not options.json else "\n"))
        sys.stdout.flush()
    return int(failed)


def missed(result: dict[str, Any]) -> bool:
    """Whether the result breaks the limits stated for its scale."""
    seconds, gigabytes = LIMITS.get(result["scale"], (None, None))
    too_slow = seconds is not None and result["total_seconds"] > seconds
    return too_slow or (gigabytes is not None and result["peak_gb"] > gigabytes)


if __name__ == "__main__":
    sys.exit(main())
