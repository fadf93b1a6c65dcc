"""How do evaluations scale over the GPUs of a host? The project's own commands, for each number of GPUs.

    python benchmarks/scaling.py score MODEL --output DIR --gpus 1,2,4 --tasks sage_mmlu=35,sage_wikitext=60
    python benchmarks/scaling.py score MODEL --output DIR --gpus 1,2 --by tp_size
    python benchmarks/scaling.py compare MODEL --output DIR --gpus 1,2,4 --limit 20
    python benchmarks/scaling.py prefill llama-3.1-8b --output DIR --gpus 1,2,4 --lengths 4096,32768

`score` runs `bench scoring` through `sglang-sage`, the first number twice: what differs then is the floor. `compare`
runs `compare --parallel N` with the same arms for every N. `prefill` runs `bench serving` with `tp_size=N`, with random
weights for the name of a shape. What follows `--` goes to the command as it is: `-- --data-dir DIR --total 240`.

Each number has a folder under DIR with the command's record, written as each cell is finished, and its log. A repeated
call goes on. A number that fails does not end it. The table at the end shows all that is there.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from sage_eval.arms.shape import SHAPES
from sage_eval.measure.scoring.rows import Part, Task, agreement, task_name
from sage_eval.measure.serving.summary import Served
from sage_eval.render.table import MISSING, Table, markdown
from sage_eval.store import folder, record
from sage_eval.store.files import read_json, write_json

LIMIT = 1e-3
LM, SAGE = "sglang-sage:fidelity", "sage_attn+fa3"
AGAIN, LOG, DONE = "-again", "command.log", "done.json"
SCORE = "ranks|task|items|items/s|efficiency|start s|score|items apart|other choices|tokens asked/counted|verdict"
COMPARE = "arms at a time|arms|wall s|× first|seconds of each arm|items apart|error"
PREFILL = "ranks|tokens|arm|tokens/s|rounds|× first|× baseline|peak GiB by rank|error"


def run(target: Path, command: list[str]) -> None:
    """Run a `sage-eval` command that has not succeeded yet, and keep its seconds; what it says goes to a log."""
    done = target / DONE
    if done.exists() and read_json(done)["command"] == command:
        return
    target.mkdir(parents=True, exist_ok=True)
    sys.stderr.write(f"sage-eval {' '.join(command)}\n")
    started = time.perf_counter()
    with (target / LOG).open("w") as log:
        code = subprocess.call([sys.executable, "-m", "sage_eval.cli", *command], stdout=log, stderr=log)
    sys.stderr.write(f"exit code {code} after {(seconds := time.perf_counter() - started):.0f} s: {_why(target)}\n")
    if code == 0:
        write_json(done, {"command": command, "seconds": seconds})


def score(args: argparse.Namespace, count: int) -> None:
    """An engine of `count` ranks answers the tasks."""
    for again in ("", AGAIN) if count == args.gpus[0] else ("",):
        target = args.output / f"score-{args.by}-{count}{again}"
        run(target, [
            "bench", "scoring", args.model, "--parts=evaluation", f"--models={LM}", f"--baseline={LM}",
            f"--arms={args.arms}", f"--tasks={args.tasks}", f"--model-args={args.model_args}{args.by}={count}",
            f"--output={target}", *args.more,
        ])  # fmt: skip


def scores(args: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """A row for each task and number of ranks, beside the first."""
    first: dict[str, Task] = {}
    bits = 32 if "dtype=float32," in args.model_args else 16
    for label in [str(args.gpus[0]), f"{args.gpus[0]}{AGAIN}", *map(str, args.gpus[1:])]:
        path = (target := args.output / f"score-{args.by}-{label}") / "scoring.json"
        found = record.read(Part, path, "scoring") if path.exists() else None
        parts = [part for part in found.rows if part.task] if found else []
        if not parts:
            yield (label, *[MISSING] * 9, _why(target, found))
        for part in parts:
            task, start = part.task, next(iter(found.arms.values())).start_seconds or 0.0
            base = first.setdefault(part.cell, task)
            gain = task.rate / base.rate * args.gpus[0] / int(label.removesuffix(AGAIN))
            told, same = task.tokens, agreement(str(args.gpus[0]), task, base, bits)
            apart = sum(_apart(answer, base.answers.get(key)) for key, answer in task.answers.items())
            yield (
                label, task_name(part.cell), f"{task.items:,}", f"{task.rate:.2f}", f"{gain:.0%}", f"{start:.0f}",
                f"{task.metric} {task.score:.5g}", str(apart), str(same.turned),
                f"{told['prompt'] - told['cached']} / {told.get('counted', MISSING)}",
                "reference" if task is base else same.reason or "equal",
            )  # fmt: skip


def compare(args: argparse.Namespace, count: int) -> None:
    """The same comparison with `count` arms at a time. Half a run says nothing of its time: it begins anew."""
    baseline, *candidates = args.arms.split(",")
    target = args.output / f"compare-{count}"
    run(target, [
        "compare", args.model, f"--baseline={baseline}", *(f"--candidate={arm}" for arm in candidates),
        "--no-calibrate", "--arms=repeat", f"--tasks={args.tasks}", f"--limit={args.limit}", f"--parallel={count}",
        f"--model-args={args.model_args[:-1]}", f"--output={target / 'run'}", "--fresh", *args.more,
    ])  # fmt: skip


def comparisons(args: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """A row for each number of arms at a time."""
    first: tuple[float, dict[str, dict[Any, list[float]]]] | None = None
    for count in args.gpus:
        target = args.output / f"compare-{count}"
        if not (target / DONE).exists():
            yield (str(count), *[MISSING] * 5, _why(target))
            continue
        seconds, arms = read_json(target / DONE)["seconds"], folder.load(target / "run").arms
        answers = {name: {one.key: one.logprobs for one in arm.samples} for name, arm in arms.items()}
        first = first or (seconds, answers)
        apart = {n: sum(_apart(a, first[1][n].get(key)) for key, a in found.items()) for n, found in answers.items()}
        yield (
            str(count), str(len(arms)), f"{seconds:.0f}", f"{first[0] / seconds:.2f}",
            ", ".join(f"{name} {sum(arm.record.seconds.values()):.0f}" for name, arm in arms.items()),
            ", ".join(f"{name} {apart[name]} of {len(found)}" for name, found in answers.items()), "",
        )  # fmt: skip


def prefill(args: argparse.Namespace, count: int) -> None:
    """One prompt at a time through engines of `count` tensor-parallel ranks, the arms in turn."""
    target = args.output / f"prefill-{Path(args.model).name}-{count}"
    run(target, [
        "bench", "serving", *(["--shape"] if args.model in SHAPES else []), args.model, f"--arms={args.arms}",
        f"--lengths={args.lengths}", "--batches=", "--mixed=0", "--packed-tokens=0", "--profile=0",
        *(["--resident=1"] if count > 1 else []),  # SGLang wants equal memory free on all GPUs
        f"--model-args={args.model_args}tp_size={count}", f"--output={target}", *args.more,
    ])  # fmt: skip


def prefills(args: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    """A row for each number of ranks, length and arm."""
    first: dict[tuple[str, str], float] = {}
    for count in args.gpus:
        target = args.output / f"prefill-{Path(args.model).name}-{count}"
        path = target / "serving.json"
        found = record.read(Served, path, "serving") if path.exists() else None
        rows = [row for row in found.rows if row.seconds] if found else []
        if not rows or found.failed(found.arms):
            yield (str(count), *[MISSING] * 7, _why(target, found))
        for row in rows:
            seconds = median(row.seconds)
            base = first.setdefault((row.cell, row.arm), seconds)
            beside = [median(each.seconds) for each in rows if (each.cell, each.arm) == (row.cell, found.baseline)]
            memory = [row.memory[name] for name in row.memory if name.startswith("peak_rank_")]
            memory = memory or [row.memory[name] for name in ("peak_allocated", "peak_rss") if name in row.memory]
            yield (
                str(count), f"{row.tokens:,}", row.arm, f"{row.tokens / seconds:,.0f}", str(len(row.seconds)),
                f"{base / seconds:.2f}", f"{beside[0] / seconds:.2f}" if beside else MISSING,
                " ".join(f"{peak / 2**30:.2f}" for peak in memory), "",
            )  # fmt: skip


def _why(target: Path, found: Any = None) -> str:
    """The first error of a record, or the last line of the log."""
    told = [getattr(each, "error", None) for each in (*found.arms.values(), *found.rows)] if found else []
    lines = (target / LOG).read_text().split("\n") if (target / LOG).exists() else ["not run"]
    return next((line.strip()[:200] for line in [*told, *reversed(lines)] if line and line.strip()), "")


def _apart(a: Any, b: Any) -> bool:
    if isinstance(a, str) or b is None or len(a) != len(b):
        return bool(a != b)
    return any(abs(x - y) > LIMIT for x, y in zip(a, b, strict=True))


PARTS = {
    "score": (score, scores, SCORE, SAGE, "sage_mmlu=35,sage_wikitext=60"),
    "compare": (compare, comparisons, COMPARE, f"fa3,{SAGE},{SAGE}:variant=int8-fp8", "sage_mmlu,sage_wikitext"),
    "prefill": (prefill, prefills, PREFILL, f"fa3,{SAGE}", ""),
}


def main() -> None:
    """Measure what is lacking, then print the table."""
    end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("part", choices=PARTS)
    add("model", help="folder or hub id; for prefill also the name of a shape")
    add("--output", type=Path, required=True)
    add("--gpus", type=lambda text: [int(part) for part in text.split(",")], default=[1, 2, 4])
    add("--arms", help="score: one; compare: the baseline first")
    add("--model-args", type=lambda text: text and f"{text},", default="", help="name=value,… for every engine")
    add("--by", default="dp_size", choices=["dp_size", "tp_size", "pp_size"], help="score: what N is")
    add("--tasks", help="score: TASK=DOCUMENTS,…; compare: TASK,…")
    add("--limit", type=int, default=20, help="compare: items of a task")
    add("--lengths", default="4096,32768", help="prefill: tokens of a prompt")
    args = parser.parse_args(sys.argv[1:end], argparse.Namespace(more=sys.argv[end + 1 :]))
    measure, rows, header, arms, tasks = PARTS[args.part]
    args.arms, args.tasks = args.arms or arms, args.tasks or tasks
    for count in args.gpus:
        measure(args, count)
    title = f"{args.part}: {Path(args.model).name}{f', {args.by}' if args.part == 'score' else ''}"
    notes = [f"Items apart: a log-probability differs by over {LIMIT:g} nats."] if "apart" in header else []
    sys.stdout.write(markdown(Table(title, header.split("|"), list(rows(args)), notes)))


if __name__ == "__main__":
    main()
