"""Prefill attention kernels side by side on one GPU: time, TFLOP/s and the share of what the card allows.

The card's matrix and exp2 rates are measured first, in the same run, and set the limit: half of the FLOPs at the rate
of Q·K, half at that of P·V, or exp2 where that takes longer. Before a kernel is timed on a case, some rows of its
output are compared with exact attention. All kernels of a case are then timed in turn, several rounds, with a cold L2
cache. FLOPs are those the causal mask leaves. Quantisation is part of the time and also shown apart. Each measured cell
is one JSON line, appended at once: a run that was cut short is taken up again.

    python -m sage_eval.probes.bench_kernels --out bench.jsonl          # needs torch and Triton only
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sage_eval.attention.source import source_hash
from sage_eval.errors import DataError, PrerequisiteError, UsageError
from sage_eval.probes.bench_columns import COLUMNS, HEADS, Case, Inputs
from sage_eval.probes.card import card_limits
from sage_eval.probes.timing import time_ms

# The cases that matter most come first, since a budget cuts the end off.
CASES = [
    *(Case(n, 0, max(1, 16384 // n), 128) for n in (4096, 32768, 1024)),
    Case(4096, 16384, 1, 128),
    *(Case(n, 0, max(1, 16384 // n), 64) for n in (4096, 32768)),
    *(Case(n, 0, max(1, 16384 // n), d) for d in (128, 64) for n in (512, 2048, 8192, 16384)),
    *(Case(n, 0, 1, 128) for n in (1024, 4096)),
    Case(1024, 0, 16, 64),
    Case(4096, 16384, 1, 64),
    *(Case(131072, 0, 1, d) for d in (128, 64)),
]
LARGEST_ERROR = 0.1  # relative L2: quantised kernels have 0.01 to 0.05, a wrong mask or scale far more


def limit_ms(case: Case, limits: dict[str, float], second: str) -> float:
    """The least time the measured rates allow: Q·K at INT8 and P·V at `second`, or exp2 where that is longer.

    INT8 and FP8 share a rate in hardware, and torch's INT8 product stays far below it: the better of the two counts.
    """
    half = case.flops / 2 / 1e9
    matrix = half / max(limits["int8"], limits["fp8"]) + half / limits[second]
    return max(matrix, case.flops / (4 * case.dim) / 1e9 / limits["exp2"])


def run(
    cases: Iterable[Case], columns: Iterable[str], done: set[tuple[str, str]], rounds: int, budget: float = float("inf")
) -> Iterator[dict[str, Any]]:
    """One record a case and kernel; kernels of a case take turns. A kernel that does not run gives its reason.

    No case is begun once `budget` seconds have passed. A kernel that failed and never ran is not tried again.
    """
    names, start = list(columns), time.monotonic()
    ran: set[str] = set()
    broken: dict[str, str] = {}
    for case in cases:
        todo = [name for name in names if (case.name, name) not in done]
        if not todo or time.monotonic() - start > budget:
            continue
        begun = time.monotonic()
        inputs = Inputs(case)
        rows = slice(case.new // 2, case.new // 2 + 16)
        launches, want = {}, inputs.reference(rows)
        for name in todo:
            if name in broken:
                yield {"case": case.name, "kernel": name, "absent": broken[name]}
                continue
            try:
                inputs.out.fill_(torch.nan)
                launch = COLUMNS[name](inputs)
                if launch:
                    check(launch(), want, case, rows)
                    launches[name] = launch
                    ran.add(name)
            except Exception as error:  # whatever a foreign kernel or its compiler raises
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                if name not in ran:
                    broken[name] = reason
                yield {"case": case.name, "kernel": name, "absent": reason}
        ready = time.monotonic() - begun
        samples: dict[str, list[list[float]]] = {name: [] for name in launches}
        for _ in range(rounds):
            for name, launch in launches.items():
                samples[name].append(time_ms(launch))
        for name, times in samples.items():
            p20, p50, p80 = (statistics.median(column) for column in zip(*times, strict=True))
            tflops = None if name == "quantise" else case.flops / p50 / 1e9
            yield {"case": case.name, "kernel": name, "ms": [p20, p50, p80], "tflops": tflops, **case._asdict()}
        whole = time.monotonic() - begun
        sys.stderr.write(f"{case.name}: {whole:.1f} s, {ready:.1f} of them to compile and check\n")
        del inputs, launches


def check(result: Any, want: Tensor, case: Case, rows: slice) -> None:
    """Raise `RuntimeError` where `rows` of the first sequence of a kernel's result are not attention at all.

    `result` is [tokens, heads, D], [batch, heads, T, D] or [batch, T, heads, D]; anything else (operands) passes.
    """
    if not isinstance(result, Tensor):
        return
    if result.dim() == 4:
        result = result[0].transpose(0, 1) if result.shape[1] == HEADS and case.new != HEADS else result[0]
    error = ((result[rows].float() - want).norm() / want.norm()).item()
    if not error <= LARGEST_ERROR:
        raise RuntimeError(f"its result is off by {error:.3g}, so it was not timed")


def measure(
    out: Path, columns: Sequence[str] = (), cases: Sequence[str] = (), rounds: int = 3, budget: float = float("inf")
) -> str:
    """Time `columns` (kernels; all by default) on `cases` (names; all by default), append to `out`, return the table.

    Cells that `out` holds already are not measured again; no case is begun after `budget` seconds. Progress goes to
    stderr. Raises `UsageError` for an unknown name, `PrerequisiteError` where there is no CUDA GPU, `DataError` for a
    file that is not ours, or of another state of the kernels.
    """
    columns = list(columns) or list(COLUMNS)
    names = {case.name: case for case in CASES}
    for given, known in ((columns, COLUMNS), (cases, names)):
        for name in given:
            if name not in known:
                raise UsageError(f"{name!r} is unknown; known: {', '.join(known)}")
    if not torch.cuda.is_available():
        raise PrerequisiteError("kernels are timed on a CUDA GPU, and this machine has none")
    rows, source = read(out), source_hash()
    if any(row.get("source", source) != source for row in rows):
        raise DataError(f"{out} was measured with another state of sage_eval/attention: choose another --out")
    done = {(row["case"], row["kernel"]) for row in rows if "ms" in row}
    with out.open("a") as file:

        def record(row: dict[str, Any]) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()
            rows.append(row)

        limits = card_limits()
        device = torch.cuda.get_device_name()
        record({"limits": limits, "device": device, "torch": torch.__version__, "source": source})
        sys.stderr.write(", ".join(f"{name} {rate:.4g}" for name, rate in limits.items()) + " (10^12 a second)\n")
        sys.stderr.write(f"sage_eval/attention {source}\n")
        for row in run([names[name] for name in cases] or CASES, columns, done, rounds, budget):
            record(row)
            if row.get("tflops"):
                sys.stderr.write(f"{row['case']:16} {row['kernel']:14} {row['tflops']:6.0f} TFLOP/s\n")
    return table(rows)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: the limits first, then TFLOP/s at p50 by case and kernel, the share of the limit, what did not run."""
    heads = [row for row in rows if "limits" in row]
    cells = {(row["case"], row["kernel"]): row for row in rows if "ms" in row}
    missing = {row["kernel"]: row["absent"] for row in rows if "absent" in row}
    kernels = [name for name in COLUMNS if any(kernel == name for _, kernel in cells)]
    limits = {name: max(head["limits"][name] for head in heads) for name in heads[-1]["limits"]}  # of several calls
    lines = [
        "Measured limits: " + ", ".join(f"{name} {rate:.4g}" for name, rate in limits.items()) + " · 10¹² a second",
        f"Source of sage_eval/attention: {heads[-1]['source']}",
        "",
        "| case | " + " | ".join(kernels) + " | of the limit |",
        "|---" * (len(kernels) + 2) + "|",
    ]
    for case in CASES:
        found = [cells.get((case.name, name)) for name in kernels]
        if any(found):
            shares = [
                f"{limit_ms(case, limits, 'fp8' if name == 'int8-fp8' else 'bf16') / cell['ms'][1]:.0%}"
                for name, cell in zip(kernels, found, strict=True)
                if cell and name.startswith("int8")
            ]
            lines.append("| " + " | ".join([case.name, *map(_cell, found), " / ".join(shares)]) + " |")
    never = [name for name in missing if name not in kernels]
    return "\n".join([*lines, "", *(f"{name} is not available: {missing[name]}" for name in never)]).rstrip() + "\n"


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    return f"{row['ms'][1] * 1e3:.0f} µs" if row["tflops"] is None else f"{row['tflops']:.0f}"


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of an earlier call; a last line that was cut short is dropped from the file, so that it is redone."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
        path.write_text("".join(lines))
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not a file of this benchmark ({error}): choose another --out") from None


def main(arguments: list[str] | None = None) -> None:
    """Command line: see the module's text."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSONL file, appended to and taken up again")
    parser.add_argument("--columns", default="", help="kernels, separated by ',' (default: all)")
    parser.add_argument("--cases", default="", help="names of cases, separated by ';' (default: all)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds after which no case is begun")
    options = parser.parse_args(arguments)
    text = measure(options.out, split(options.columns, ","), split(options.cases, ";"), options.rounds, options.budget)
    sys.stdout.write(text)


def split(text: str, separator: str) -> list[str]:
    """The non-empty parts of `text`."""
    return [part.strip() for part in text.split(separator) if part.strip()]


if __name__ == "__main__":
    main()
