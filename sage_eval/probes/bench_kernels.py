"""Prefill attention kernels side by side on one GPU: time, TFLOP/s and the share of what the card allows.

The card's matrix and exp2 rates are measured first, in the same run, and set the limit: half of the FLOPs at the rate
of Q·K, half at that of P·V, or exp2 where that takes longer. All kernels of a case are timed in turn, several rounds,
with a cold L2 cache (`triton.testing.do_bench`). FLOPs are those the causal mask leaves. Quantisation is part of the
time and also shown apart. Each measured cell is one JSON line, appended at once: a run that was cut short is taken
up again.

    python -m sage_eval.probes.bench_kernels --out bench.jsonl          # needs torch and Triton only
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sage_eval.attention.kernels.paged import paged_attention
from sage_eval.attention.kernels.plan import make_plan
from sage_eval.attention.kernels.quantise import quantise
from sage_eval.errors import DataError, PrerequisiteError, UsageError

HEADS, KV_HEADS = 32, 8
Launch = Callable[[], Any]


class Case(NamedTuple):
    """`batch` sequences of `new` tokens after `prefix` cached ones."""

    new: int
    prefix: int
    batch: int
    dim: int

    @property
    def flops(self) -> float:
        """Two products of 2 · D operations for each pair of a query and a key it sees."""
        pairs = self.new * self.prefix + self.new * (self.new + 1) / 2
        return 4.0 * self.dim * HEADS * self.batch * pairs

    @property
    def name(self) -> str:
        prefix = f"+{self.prefix}" if self.prefix else ""
        return f"d{self.dim} {self.batch}x{self.new}{prefix}"


CASES = [
    *(Case(n, 0, max(1, 16384 // n), d) for d in (128, 64) for n in (512, 1024, 2048, 4096, 8192, 16384, 32768)),
    Case(131072, 0, 1, 128),
    *(Case(n, 0, 1, 128) for n in (1024, 4096)),
    Case(4096, 16384, 1, 128),
]


class Inputs:
    """Random bf16 tensors of a case; the prefix lies shuffled in a pool."""

    def __init__(self, case: Case) -> None:
        generator = torch.Generator("cuda").manual_seed(0)

        def normal(rows: int, heads: int) -> Tensor:
            return torch.randn(rows, heads, case.dim, generator=generator, device="cuda").bfloat16()

        new, cached = case.batch * case.new, case.batch * case.prefix
        self.case, self.scale = case, case.dim**-0.5
        self.q, self.k, self.v = normal(new, HEADS), normal(new, KV_HEADS), normal(new, KV_HEADS)
        self.k_cache, self.v_cache = normal(cached + 1, KV_HEADS), normal(cached + 1, KV_HEADS)
        self.indices = torch.randperm(cached, generator=generator, device="cuda")
        self.out = torch.empty_like(self.q)
        self.plan = make_plan([case.prefix] * case.batch, [case.new] * case.batch, "cuda")

    def dense(self) -> tuple[Tensor, Tensor, Tensor]:
        """[batch, 32, T, D] with K and V expanded, as torch's kernels take them."""
        shape = (self.case.batch, self.case.new, -1, self.case.dim)
        q, k, v = (x.view(shape).transpose(1, 2) for x in (self.q, self.k, self.v))
        k, v = (x.repeat_interleave(HEADS // KV_HEADS, 1) for x in (k, v))
        return q.contiguous(), k, v


def paged(variant: str) -> Callable[[Inputs], Launch]:
    """Ours, quantisation included."""

    def prepare(x: Inputs) -> Launch:
        return lambda: paged_attention(
            x.q, x.k, x.v, x.out, x.k_cache, x.v_cache, x.indices, x.plan, scale=x.scale, variant=variant
        )

    return prepare


def quantise_only(x: Inputs) -> Launch:
    """The part of `int8-fp16` that quantises."""
    return lambda: quantise(x.k, x.v, x.k_cache, x.v_cache, x.indices, x.plan)


def package(x: Inputs) -> Launch | None:
    """The released sageattention; no prefix."""
    if x.case.prefix:
        return None
    from sageattention import sageattn

    shape = (x.case.batch, x.case.new, -1, x.case.dim)
    q, k, v = (t.view(shape) for t in (x.q, x.k, x.v))
    return lambda: sageattn(q, k.clone(), v, tensor_layout="NHD", is_causal=True)


def triton_extend(x: Inputs) -> Launch:
    """SGLang's Triton prefill kernel."""
    from sglang.kernels.ops.attention.extend_attention import extend_attention_fwd

    def starts(length: int) -> Tensor:
        return torch.arange(x.case.batch + 1, device="cuda", dtype=torch.int64) * length

    qo, kv = starts(x.case.new), starts(x.case.prefix).int()
    return lambda: extend_attention_fwd(
        x.q, x.k, x.v, x.out, x.k_cache, x.v_cache, qo, kv, x.indices, None, True, None, x.case.new, 1.0, 1.0, x.scale
    )


def torch_sdpa(backend: str) -> Callable[[Inputs], Launch | None]:
    """A kernel behind torch's SDPA; no prefix."""

    def prepare(x: Inputs) -> Launch | None:
        if x.case.prefix:
            return None
        from torch.nn.attention import SDPBackend, sdpa_kernel

        q, k, v = x.dense()

        def launch() -> Tensor:
            with sdpa_kernel(getattr(SDPBackend, backend)):
                return scaled_dot_product_attention(q, k, v, is_causal=True)

        return launch

    return prepare


def fa3(x: Inputs) -> Launch | None:
    """FlashAttention-3 as SGLang packs it; no prefix."""
    if x.case.prefix:
        return None
    from sgl_kernel.flash_attn import flash_attn_varlen_func

    cu = torch.arange(x.case.batch + 1, device="cuda", dtype=torch.int32) * x.case.new
    return lambda: flash_attn_varlen_func(
        x.q, x.k, x.v, cu, cu, x.case.new, x.case.new, softmax_scale=x.scale, causal=True
    )


COLUMNS: dict[str, Callable[[Inputs], Launch | None]] = {
    "int8-fp16": paged("int8-fp16"),
    "int8-fp8": paged("int8-fp8"),
    "quantise": quantise_only,
    "package": package,
    "triton-extend": triton_extend,
    "fa3": fa3,
    "cudnn": torch_sdpa("CUDNN_ATTENTION"),
    "fa2": torch_sdpa("FLASH_ATTENTION"),
}


def time_ms(launch: Launch) -> list[float]:
    """p20, p50 and p80 in milliseconds."""
    from triton.testing import do_bench

    result: list[float] = do_bench(launch, warmup=10, rep=50, quantiles=[0.2, 0.5, 0.8])
    return result


def card_limits() -> dict[str, float]:
    """Measured rates: bf16, INT8 and FP8 products in TFLOP/s (TOP/s), exp2 in 10^12 a second."""
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


def limit_ms(case: Case, limits: dict[str, float], second: str) -> float:
    """The least time the measured rates allow: Q·K at INT8 and P·V at `second`, or exp2 where that is longer.

    INT8 and FP8 share a rate in hardware, and torch's INT8 product stays far below it: the better of the two counts.
    """
    half = case.flops / 2 / 1e9
    matrix = half / max(limits["int8"], limits["fp8"]) + half / limits[second]
    return max(matrix, case.flops / (4 * case.dim) / 1e9 / limits["exp2"])


def run(
    cases: Iterable[Case], columns: Iterable[str], done: set[tuple[str, str]], rounds: int
) -> Iterator[dict[str, Any]]:
    """One record a case and kernel; kernels of a case take turns. A kernel that is not installed gives a reason."""
    names = list(columns)
    for case in cases:
        todo = [name for name in names if (case.name, name) not in done]
        if not todo:
            continue
        inputs, launches = Inputs(case), {}
        for name in todo:
            try:
                if launch := COLUMNS[name](inputs):
                    launch()
                    launches[name] = launch
            except (ImportError, RuntimeError) as error:
                yield {"case": case.name, "kernel": name, "absent": str(error).splitlines()[0][:200]}
        samples: dict[str, list[list[float]]] = {name: [] for name in launches}
        for _ in range(rounds):
            for name, launch in launches.items():
                samples[name].append(time_ms(launch))
        for name, rows in samples.items():
            p20, p50, p80 = (statistics.median(column) for column in zip(*rows, strict=True))
            tflops = None if name == "quantise" else case.flops / p50 / 1e9
            yield {"case": case.name, "kernel": name, "ms": [p20, p50, p80], "tflops": tflops, **case._asdict()}


def measure(out: Path, columns: Sequence[str] = (), cases: Sequence[str] = (), rounds: int = 3) -> None:
    """Time `columns` (kernels; all by default) on `cases` (names; all by default) and append to `out`, JSON lines.

    Cells that `out` holds already are not measured again. Progress goes to stderr. Raises `UsageError` for an unknown
    name, `PrerequisiteError` where there is no CUDA GPU, `DataError` for a file that is not ours.
    """
    columns = list(columns) or list(COLUMNS)
    names = {case.name: case for case in CASES}
    for given, known in ((columns, COLUMNS), (cases, names)):
        for name in given:
            if name not in known:
                raise UsageError(f"{name!r} is unknown; known: {', '.join(known)}")
    if not torch.cuda.is_available():
        raise PrerequisiteError("kernels are timed on a CUDA GPU, and this machine has none")
    done = {(row["case"], row["kernel"]) for row in _read(out) if "case" in row}
    with out.open("a") as file:

        def record(row: dict[str, Any]) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()

        limits = card_limits()
        record({"limits": limits, "device": torch.cuda.get_device_name(), "torch": torch.__version__})
        sys.stderr.write(", ".join(f"{name} {rate:.4g}" for name, rate in limits.items()) + " (10^12 a second)\n")
        for row in run([names[name] for name in cases] or CASES, columns, done, rounds):
            record(row)
            if row.get("tflops"):
                case = Case(*(row[field] for field in Case._fields))
                second = "fp8" if row["kernel"] == "int8-fp8" else "bf16"
                share = limit_ms(case, limits, second) / row["ms"][1]
                limit = f", {share:.0%} of the limit" if row["kernel"].startswith("int8") else ""
                sys.stderr.write(f"{row['case']:16} {row['kernel']:14} {row['tflops']:6.0f} TFLOP/s{limit}\n")


def _read(path: Path) -> list[dict[str, Any]]:
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
    options = parser.parse_args(arguments)
    measure(options.out, split(options.columns, ","), split(options.cases, ";"), options.rounds)


def split(text: str, separator: str) -> list[str]:
    """The non-empty parts of `text`."""
    return [part.strip() for part in text.split(separator) if part.strip()]


if __name__ == "__main__":
    main()
