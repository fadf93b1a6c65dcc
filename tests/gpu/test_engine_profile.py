"""A profile of an engine on a GPU: kernels that layers launch, and kernels that a CUDA graph replays."""

import pytest
import torch

from sage_eval.measure.serving.worker import profile, run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.engine,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
PREFILL = {"requests": 1, "length": 2048, "new_tokens": 1}
DECODE = {"requests": 4, "length": 256, "new_tokens": 17}


@pytest.fixture(scope="module", params=["triton", "sage_attn"])
def arm(request, open_arm):
    return open_arm(
        attention_backend=request.param, dtype="bfloat16", mode="throughput", disable_radix_cache=True,
        disable_prefill_cuda_graph=True, cuda_graph_max_bs_decode=4, enable_fp32_lm_head=False,
    )  # fmt: skip


@pytest.mark.parametrize(("kind", "command", "by"), [("prefill", PREFILL, "launch"), ("decode", DECODE, "name")])
def test_every_part_has_its_kernels(arm, kind, command, by):
    found = profile(arm.transport, kind, lambda: run(arm, {**command, "seed": 1, "vocabulary": 8192}))
    assert found.error is None
    assert all(found.seconds[part] > 0 for part in ("attention", "products", "other", "idle"))
    assert found.by == by
    # The graph replays what the same engine launches without it.
    assert found.guessed < 0.1
    assert not any("gemm" in kernel.name or "nvjet" in kernel.name for kernel in found.kernels)


def test_the_backends_own_kernels_are_the_attentions(arm):
    found = profile(arm.transport, "prefill", lambda: run(arm, {**PREFILL, "seed": 2, "vocabulary": 8192}))
    names = " ".join(kernel.name for kernel in found.kernels)
    assert (
        ("attend_kernel" in names and "_second_kernel" in names)
        if arm.backend == "sage_attn"
        else "_fwd_kernel" in names
    )
