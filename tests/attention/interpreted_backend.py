"""The CUDA backend in SGLang's unit-test kit, on CPU tensors with every Triton kernel interpreted.

SGLang's own bookkeeping and exact kernels run as well, so that what the backend hands over is what they expect.
`test_kernels_interpreted.py` runs this file in a process of its own.
"""

import unittest

import pytest
import torch
from safetensors.torch import save_file
from sglang.srt.layers.attention import triton_backend
from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.plugins import load_plugins
from sglang.srt.runtime_context import get_parallel
from sglang.test.kits.attention_unittest.attention_methods import dense_attention as kit

from sage_eval.attention.backend import SageAttnBackend
from sage_eval.attention.coverage import CoverageCounter
from sage_eval.attention.settings import AttentionSettings
from sage_eval.errors import UsageError

load_plugins()
RAGGED = kit.DenseAttentionCase(
    name="ragged_prefix_beyond_blocks",
    backend="sage_attn",
    forward_mode=ForwardMode.EXTEND,
    num_heads=4,
    num_kv_heads=2,
    page_size=16,
    prefix_lens=(0, 65, 130),
    extend_lens=(150, 1, 77),
)
CASES = {case.name: case for case in kit.make_dense_cases("sage_attn")}


@pytest.fixture
def run(monkeypatch):
    """`run(case, **settings)`: relative L2 error against the kit's exact reference, and the tokens counted."""
    monkeypatch.setattr(triton_backend, "get_device_core_count", lambda *_: 8)
    monkeypatch.setattr("sage_eval.attention.backend.torch.cuda.get_device_capability", lambda *_: (8, 9))

    built = []

    def build(runner, settings):
        built.append(SageAttnBackend(runner, settings))
        return built[-1]

    @torch.no_grad()
    @get_parallel().override(pp_size=1, attn_tp_size=1, attn_tp_rank=0)  # the kit sets up no process groups
    def run_case(case, layers=1, **settings):
        counter = CoverageCounter()
        counter.layers = layers
        monkeypatch.setattr("sage_eval.attention.backend.COUNTER", counter)
        monkeypatch.setitem(
            ATTENTION_BACKENDS, "sage_attn", lambda runner: build(runner, AttentionSettings(**settings))
        )
        fixture = kit.build_dense_attention_fixture(
            unittest.TestCase(), case, head_dim=64, max_context_len=512, dtype=torch.float16, device="cpu"
        )
        actual, expected = kit.run_dense_fixture_eager(fixture), kit.expected_dense_fixture_output(fixture)
        error = (actual.float() - expected.float()).norm() / expected.float().norm()
        return error.item(), counter.snapshot()["tokens"]

    run_case.built = built
    return run_case


def test_prefill_with_and_without_prefix(run):
    error, tokens = run(RAGGED)
    assert 1e-3 < error < 1e-2
    assert tokens == {"prefill/sage-paged-int8-fp16": 150, "prefill_prefix/sage-paged-int8-fp16": 78}


def test_what_a_batchs_layers_share_is_given_back_after_the_last(run):
    """Held on, it would be memory at rest until the next prefill."""
    for layers, kept in ((2, 1), (1, 0)):  # the case computes one
        run(RAGGED, layers=layers)
        assert len(run.built[-1]._plan.layers) == kept


def test_exact_runs_tritons_kernel_and_says_so(run):
    error, tokens = run(RAGGED, variant="exact")
    assert error < 1e-3
    assert tokens == {"prefill/triton-exact": 150, "prefill_prefix/triton-exact": 78}


def test_short_sequences_run_exactly_between_long_ones(run):
    error, tokens = run(RAGGED, min_tokens=100)
    assert error < 1e-2
    assert tokens == {
        "prefill/sage-paged-int8-fp16": 150,
        "prefill_prefix/sage-paged-int8-fp16": 77,
        "prefill_prefix/triton-exact": 1,
    }


def test_the_definition_in_place_of_the_kernel(run):
    error, tokens = run(RAGGED, kernel="torch")
    assert 1e-3 < error < 1e-2
    assert tokens == {"prefill/sage-torch-int8-fp16": 150, "prefill_prefix/sage-torch-int8-fp16": 78}


def test_the_positive_control_is_seen(run):
    error, _ = run(RAGGED, variant="int4-fp16")
    assert error > 0.03


def test_decode_is_exact_and_counted(run):
    case = CASES["gqa_decode_page_boundary"]
    error, tokens = run(case)
    assert error < 1e-3
    assert tokens == {"decode/triton-exact": case.batch_size}


@pytest.fixture
def shift(tmp_path):
    save_file({"layers.0": torch.randn(2, 64)}, tmp_path / "shift.safetensors")
    return tmp_path / "shift.safetensors"


def test_a_fixed_shift_reaches_the_kernel(run, shift):
    """One far from the keys costs accuracy; the sequence's mean, or a shift of zeros, does not."""
    error, tokens = run(RAGGED, smooth_k="static", shift=shift)
    assert 1e-3 < error < 2e-2
    assert tokens == {"prefill/sage-paged-int8-fp16": 150, "prefill_prefix/sage-paged-int8-fp16": 78}
    save_file({"layers.0": torch.full((2, 64), 50.0)}, shift)
    far, _ = run(RAGGED, smooth_k="static", shift=shift)
    assert far > 3 * error


@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"decode": "quantised"}, "decode=exact"),
        ({"smooth_k": "static"}, "sage-eval calibrate MODEL"),
        ({"kernel": "package", "smooth_k": "static", "shift": "file"}, "kernel=paged"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(run, settings, hint):
    with pytest.raises(UsageError, match=hint):
        run(CASES["gqa_decode_page_boundary"], **settings)
