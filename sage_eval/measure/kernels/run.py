"""Checks and times kernels on cases. Needs torch and Triton alone, so that it also runs where nothing else is:

python -c "from sage_eval.measure.kernels.run import run; [print(row, flush=True) for row in run()]"
"""

import re
import statistics
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from sage_eval.measure.kernels.cases import CASES, HEADS, Case
from sage_eval.measure.kernels.columns import COLUMNS, Inputs

LONG_MS = 20.0


def time_ms(launch: Callable[[], Any]) -> list[float]:
    """p20, p50 and p80 in milliseconds.

    `triton.testing.do_bench` empties the L2 cache before each run, but spends seven runs on finding out how many it
    wants. A launch of more than 20 ms does not feel the cache, and is timed three times instead.
    """
    from triton.testing import do_bench

    first = _once(launch)
    if first < LONG_MS:
        result: list[float] = do_bench(launch, warmup=10, rep=50, quantiles=[0.2, 0.5, 0.8])
        return result
    runs = torch.tensor([_once(launch) for _ in range(3)])
    return [float(value) for value in torch.quantile(runs, torch.tensor([0.2, 0.5, 0.8]))]


def _once(launch: Callable[[], Any]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record()
    launch()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))


def card_limits() -> dict[str, float]:
    """Measured rates: bf16, INT8 and FP8 products in TFLOP/s (TOP/s), exp2 in 10^12 per second."""
    n = 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in "ab")
    a8, b8 = (torch.randint(-127, 128, (n, n), device="cuda", dtype=torch.int8) for _ in "ab")
    af, bf, one = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn), torch.ones((), device="cuda")
    ops = 2.0 * n**3 / 1e9
    return {
        "bf16": ops / time_ms(lambda: a @ b)[1],
        "int8": ops / time_ms(lambda: torch._int_mm(a8, b8.t()))[1],
        "fp8": ops / time_ms(lambda: torch._scaled_mm(af, bf.t(), one, one, out_dtype=torch.bfloat16))[1],
        "exp2": _exp2_rate(),
    }


def _exp2_rate() -> float:
    import triton
    import triton.language as tl

    @triton.jit  # type: ignore[untyped-decorator]
    def kernel(target, ROUNDS: tl.constexpr):  # type: ignore[no-untyped-def]
        place = tl.program_id(0) * 1024 + tl.arange(0, 1024)
        x = place.to(tl.float32) * 1e-9
        for _ in range(ROUNDS):
            x = tl.math.exp2(x - 1.0)
        tl.store(target + place, x)

    programs, rounds = 132 * 64, 4096
    target = torch.empty(programs * 1024, device="cuda")
    return programs * 1024 * rounds / 1e9 / time_ms(lambda: kernel[(programs,)](target, rounds))[1]


LARGEST_ERROR = 0.1  # relative L2: quantised kernels have 0.01 to 0.05, a wrong mask or scale far more


def run(
    cases: Iterable[Case] = CASES, columns: Collection[str] = tuple(COLUMNS), *,
    done: Collection[tuple[str, str]] = (), rounds: int = 3, budget: float = float("inf"),
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Fields of a row for each case and kernel (`arm`); kernels of a case take turns. One that fails has a reason.

    What is `done`, by case and kernel, is left out, and no case is begun once `budget` seconds have passed. A kernel
    that failed and never ran is not tried again.
    """
    start, ran = time.monotonic(), set()
    broken: dict[str, str] = {}
    for case in cases:
        todo = [name for name in columns if (case.name, name) not in done]
        if not todo or time.monotonic() - start > budget:
            continue
        begun = time.monotonic()
        inputs = Inputs(case)
        rows = slice(case.new // 2, case.new // 2 + 16)
        launches, want = {}, inputs.reference(rows)
        for name in todo:
            if name in broken:
                yield {"cell": case.name, "arm": name, "absent": broken[name]}
                continue
            try:
                inputs.out.fill_(torch.nan)
                launch = COLUMNS[name](inputs)
                if launch:
                    check(launch(), want, case, rows)
                    launches[name] = launch
                    ran.add(name)
            except Exception as error:  # whatever a foreign kernel or its compiler raises
                reason = why(error)
                if name not in ran:
                    broken[name] = reason
                yield {"cell": case.name, "arm": name, "absent": reason}
        ready = time.monotonic() - begun
        samples: dict[str, list[list[float]]] = {name: [] for name in launches}
        for _ in range(rounds):
            for name, launch in launches.items():
                samples[name].append(time_ms(launch))
        for name, times in samples.items():
            yield {"cell": case.name, "arm": name, "ms": list(map(statistics.median, zip(*times, strict=True)))}
        whole = time.monotonic() - begun
        sys.stderr.write(f"{case.name}: {whole:.1f} s, {ready:.1f} of them to compile and check\n")
        del inputs, launches


def why(error: Exception) -> str:
    """An error in one line for a record: of paths the last part, as folders are of one machine alone."""
    line = " ".join(f"{type(error).__name__}: {error}".split())
    return re.sub(r"(?<![\w:/])(?:/[\w.+-]+)+/(?=[\w.+-])", "", line)[:200]


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
