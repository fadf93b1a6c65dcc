"""What a GPU can do at most, measured: its matrix rates and its rate of exp2."""

import torch

from sage_eval.probes.timing import time_ms


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
