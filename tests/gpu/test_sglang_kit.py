"""SGLang's unit-test kit for dense attention with `sage_attn` on a GPU: shuffled pages, prefixes, decode, GQA, MQA."""

import unittest
from collections.abc import Iterator

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
KIT = "sglang.test.kits.attention_unittest"
kit = pytest.importorskip(f"{KIT}.attention_methods.dense_attention")
graphs = pytest.importorskip(f"{KIT}.runner_modes.cuda_graph_decode_runner", exc_type=ImportError)
CASES = kit.make_dense_cases("sage_attn")


@pytest.fixture(autouse=True, scope="module")
def plugins() -> None:
    from sglang.srt.plugins import load_plugins

    load_plugins()


@pytest.fixture(autouse=True)
def as_in_a_scheduler() -> Iterator[None]:
    """No gradients, and one rank: the kit sets up no process groups, and skips what cannot be built without."""
    from sglang.srt.runtime_context import get_parallel

    with torch.no_grad(), get_parallel().override(pp_size=1, attn_tp_size=1, attn_tp_rank=0):
        yield


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("variant", ["int8-fp16", "int8-fp8", "exact"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_kits_tolerance(case, variant: str, head_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_ATTN_VARIANT", variant)
    kit.run_dense_attention_case(
        unittest.TestCase(), case, head_dim=head_dim, max_context_len=512, dtype=torch.bfloat16, device="cuda"
    )
