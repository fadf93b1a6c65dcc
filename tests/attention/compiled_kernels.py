"""Compiles every kernel of prefill for GPUs that are not here; `test_kernels_interpreted.py` runs this file alone.

Triton is given a driver that only names the GPU, so that it compiles to machine code and launches nothing.
"""

import pytest
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from sage_eval.attention.kernels import attend, quantise
from sage_eval.attention.kernels.launch import Launch
from sage_eval.attention.kernels.plan import make_plan
from sage_eval.attention.kernels.tiles import choose_tile

SHARED_MEMORY = {80: 163, 89: 99, 90: 227, 120: 99}  # KiB a program may have
REGISTERS = 65536  # of a multiprocessor


class Compiler:
    """What Triton asks of a driver before it compiles."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self) -> int:
        return self.architecture  # Triton keeps what it compiled a device

    def get_current_stream(self, _: int) -> int:
        return 0


class Warmup(Launch):
    """Compiles in place of launching, and keeps the result by the kernel's name."""

    def __call__(self, kernel, programs, *arguments, options, **constants):
        assert programs > 0
        self._compiled[kernel.__name__] = kernel.warmup(*arguments, grid=(programs,), **constants, **options)


@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize(
    ("architecture", "fp8"),  # 80 has no FP8 matrix units
    [(80, False), *((architecture, fp8) for architecture in (89, 90, 120) for fp8 in (False, True))],
)
def test_prefill_compiles(architecture: int, fp8: bool, dim: int) -> None:
    driver.set_active(Compiler(architecture))
    tile = choose_tile(architecture, dim)
    hopper, launch = tile.kernel == "gluon", Warmup()
    plan = make_plan([0, 100], [300, 77], "cpu")
    q, k = torch.empty(377, 8, dim, dtype=torch.bfloat16), torch.empty(377, 2, dim, dtype=torch.bfloat16)
    operands = quantise.quantise(
        q, k, k, k, k, torch.arange(100), plan,
        scale=1.0, fp8=fp8, interleave=fp8 and hopper, early=hopper, launch=launch,
    )  # fmt: skip
    attend.attend(torch.empty_like(q), operands, attend.describe(operands, tile), plan, tile=tile, launch=launch)
    assert len(launch._compiled) == 3
    for compiled in launch._compiled.values():
        assert compiled.metadata.shared <= SHARED_MEMORY[architecture] * 1024
    if hopper:  # as many programs share a multiprocessor as the kernel was laid out for
        together = REGISTERS // (128 * tile.registers)
        assert together * compiled.metadata.shared <= SHARED_MEMORY[90] * 1024
        assert together == (4 if dim == 64 else 3)
