"""SGLang's unit-test kit for dense attention with `sage_attn` on a GPU: shuffled pages, prefixes, decode, GQA, MQA."""

import unittest

import pytest
import torch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
kit = pytest.importorskip("sglang.test.kits.attention_unittest.attention_methods.dense_attention")


@pytest.fixture(autouse=True, scope="module")
def plugins() -> None:
    from sglang.srt.plugins import load_plugins

    load_plugins()


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("variant", ["int8-fp16", "int8-fp8", "exact"])
@pytest.mark.parametrize("case", kit.make_dense_cases("sage_attn"), ids=lambda case: case.name)
def test_the_kits_tolerance(case, variant: str, head_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_ATTN_VARIANT", variant)
    kit.run_dense_attention_case(
        unittest.TestCase(), case, head_dim=head_dim, max_context_len=512, dtype=torch.bfloat16, device="cuda"
    )
