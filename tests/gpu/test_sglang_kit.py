"""SGLang's unit-test kit for dense attention with `sage_attn` on a GPU: shuffled pages, prefixes, decode, GQA, MQA."""

import unittest
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

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


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("variant", ["int8-fp16", "int8-fp8", "exact"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_kits_tolerance(case, variant: str, head_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGE_ATTN_VARIANT", variant)
    kit.run_dense_attention_case(
        unittest.TestCase(), case, head_dim=head_dim, max_context_len=512, dtype=torch.bfloat16, device="cuda"
    )


@pytest.fixture(params=["sequence", "static"])
def quantised_decode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """INT8 decode, smoothed by the sequence's mean or by a shift from a file, for 2 KV heads of 128."""
    monkeypatch.setenv("SAGE_ATTN_DECODE", "quantised")
    if request.param == "static":
        save_file({"layers.0": torch.randn(2, 128)}, tmp_path / "shift")
        monkeypatch.setenv("SAGE_ATTN_SMOOTH_K", "static")
        monkeypatch.setenv("SAGE_ATTN_SHIFT", str(tmp_path / "shift"))


@pytest.mark.usefixtures("quantised_decode")
@pytest.mark.parametrize("run", [kit.run_dense_attention_case, graphs.run_dense_cuda_graph_decode_case])
def test_quantised_decode_eagerly_and_with_the_metadata_of_graphs(run) -> None:
    (case,) = [case for case in CASES if case.name == "gqa_decode_page_boundary"]
    run(unittest.TestCase(), case, head_dim=128, max_context_len=512, dtype=torch.bfloat16, device="cuda")
