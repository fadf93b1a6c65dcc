"""The CPU backend in SGLang's own unit-test kit for dense attention: shuffled pages, prefixes, decode, GQA.

The kit builds a real `MHATokenToKVPool` and compares with an exact reference. `exact` must meet the kit's own
tolerance; the quantised variants must differ from the reference by about their own error, no more and no less.
"""

import dataclasses
import unittest

import pytest
import torch
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.plugins import load_plugins
from sglang.test.kits.attention_unittest.attention_methods import dense_attention as kit

from sage_eval.attention.coverage import COUNTER
from sage_eval.errors import UsageError

load_plugins()
CASES = kit.make_dense_cases("sage_attn")
LONG = kit.DenseAttentionCase(
    name="ragged_prefix_beyond_blocks",
    backend="sage_attn",
    forward_mode=ForwardMode.EXTEND,
    num_heads=4,
    num_kv_heads=2,
    page_size=16,
    prefix_lens=(0, 65, 130),
    extend_lens=(150, 1, 77),
)


@pytest.fixture
def variant(monkeypatch, request):
    monkeypatch.setenv("SAGE_ATTN_VARIANT", request.param)
    return request.param


@torch.no_grad()
def run(case, head_dim=64, dtype=torch.float16):
    fixture = kit.build_dense_attention_fixture(
        unittest.TestCase(), case, head_dim=head_dim, max_context_len=512, dtype=dtype, device="cpu"
    )
    return kit.run_dense_fixture_eager(fixture).float(), kit.expected_dense_fixture_output(fixture).float()


@pytest.mark.parametrize("variant", ["exact"], indirect=True)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_exact_meets_the_kits_tolerance(case, variant):
    actual, expected = run(case)
    torch.testing.assert_close(actual, expected, atol=kit.DENSE_ATOL, rtol=kit.DENSE_RTOL)


@pytest.mark.parametrize("variant", ["exact"], indirect=True)
@pytest.mark.parametrize("head_dim", [64, 96, 128])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_every_head_size_and_dtype(head_dim, dtype, variant):
    actual, expected = run(LONG, head_dim, dtype)
    error = (actual - expected).norm() / expected.norm()
    assert error < {torch.float16: 2e-3, torch.bfloat16: 1.5e-2, torch.float32: 1e-5}[dtype]


@pytest.mark.parametrize("variant", ["int8-fp16", "int8-fp8", "int4-fp16"], indirect=True)
def test_quantised_variants_differ_from_exact_by_their_own_error(variant):
    actual, expected = run(LONG)
    error = (actual - expected).norm() / expected.norm()
    low, high = {"int8-fp16": (5e-4, 2e-2), "int8-fp8": (5e-3, 6e-2), "int4-fp16": (2e-2, 3e-1)}[variant]
    assert low < error < high


@pytest.mark.parametrize("variant", ["int8-fp16"], indirect=True)
def test_a_sequence_does_not_depend_on_its_batch_mates(variant, monkeypatch):
    """Smoothing by the batch's mean would couple them."""
    from sage_eval.attention.cpu_backend import SageTorchAttnBackend
    from sage_eval.attention.settings import AttentionSettings

    backend = object.__new__(SageTorchAttnBackend)
    backend.settings = AttentionSettings()
    torch.manual_seed(0)
    q, k, v = torch.randn(40, 4, 64), torch.randn(64, 2, 64), torch.randn(64, 2, 64)
    table = torch.randperm(64).view(2, 32)

    def extend(requests, lengths, prefixes, news, rows):
        out = torch.empty(sum(news), 4, 64)
        backend._run_sdpa_forward_extend(
            q[rows], out, k, v, table, *map(torch.tensor, (requests, lengths, prefixes, news)), scaling=0.125
        )
        return out

    together = extend([0, 1], [32, 18], [2, 8], [30, 10], slice(None))
    assert torch.equal(together[:30], extend([0], [32], [2], [30], slice(0, 30)))
    assert torch.equal(together[30:], extend([1], [18], [8], [10], slice(30, 40)))


@pytest.mark.parametrize("variant", ["int8-fp16"], indirect=True)
@pytest.mark.parametrize(
    ("case", "counts"),
    [
        (LONG, {"prefill/sage-torch-int8-fp16": 150, "prefill_prefix/sage-torch-int8-fp16": 78}),
        (CASES[-2], {"decode/sage-torch-int8-fp16": 3}),
    ],
    ids=["extend", "decode"],
)
def test_coverage_counts_new_tokens_by_phase(case, counts, variant):
    before = COUNTER.snapshot()["tokens"]
    run(case)
    after = COUNTER.snapshot()["tokens"]
    assert {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)} == counts


def test_min_tokens_is_decided_per_sequence(monkeypatch):
    monkeypatch.setenv("SAGE_ATTN_MIN_TOKENS", "100")
    before = COUNTER.snapshot()["tokens"]
    run(LONG)  # sequences of 150, 66 and 207 tokens
    after = COUNTER.snapshot()["tokens"]
    assert after["prefill_prefix/sage-torch-exact"] - before.get("prefill_prefix/sage-torch-exact", 0) == 1
    assert after["prefill_prefix/sage-torch-int8-fp16"] - before.get("prefill_prefix/sage-torch-int8-fp16", 0) == 77


def test_decode_can_be_exact_alone(monkeypatch):
    monkeypatch.setenv("SAGE_ATTN_DECODE", "exact")
    before = COUNTER.snapshot()["tokens"].get("decode/sage-torch-exact", 0)
    run(CASES[-2])
    assert COUNTER.snapshot()["tokens"]["decode/sage-torch-exact"] == before + 3


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [("KERNEL", "paged", "CUDA"), ("KERNEL", "package", "CUDA"), ("SMOOTH_K", "static", "sage-eval calibrate MODEL")],
)
def test_settings_that_cannot_be_served_are_refused(name, value, hint, monkeypatch):
    monkeypatch.setenv(f"SAGE_ATTN_{name}", value)
    with pytest.raises(UsageError, match=hint):
        run(CASES[0])


def test_a_sink_is_refused_and_not_ignored():
    case = dataclasses.replace(LONG, prefix_lens=(0,), extend_lens=(8,))
    fixture = kit.build_dense_attention_fixture(
        unittest.TestCase(), case, head_dim=64, max_context_len=512, device="cpu"
    )
    with pytest.raises(UsageError, match="sinks"):
        fixture.backend.forward_extend(
            *(torch.zeros(8, heads * 64, dtype=torch.float16) for heads in (4, 2, 2)),
            layer=fixture.actual_module.attn,
            forward_batch=fixture.forward_batch,
            sinks=torch.zeros(4),
        )
