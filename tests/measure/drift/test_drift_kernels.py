"""The kernels that a layer is asked about: that settings reach them, on the CPU; and the hook's own bookkeeping."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sage_eval.attention import numerics
from sage_eval.errors import EngineError
from sage_eval.measure.drift import kernels, lines
from sage_eval.measure.drift.hook import Hook
from sage_eval.measure.drift.kernels import Inputs, exact, kernel_of, other_make
from sage_eval.measure.drift.lines import Kernel, Watch


def inputs(layer=0, tokens=192, dtype=torch.bfloat16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(tokens, heads, 64, generator=generator).to(dtype) for heads in (4, 2, 2))
    return Inputs(layer, q, k + 3, v, 64**-0.5)


@pytest.mark.parametrize("variant", ["int8-fp16", "int8-fp8", "int4-fp16", "exact"])
@pytest.mark.parametrize("smooth", ["sequence", "off"])
def test_sage_attn_is_its_definition_with_its_settings(variant, smooth):
    x = inputs()
    got = kernel_of("sage_attn", {"variant": variant, "smooth_k": smooth}, "cpu")(x)
    assert torch.equal(got, numerics.attention(x.q, x.k, x.v, scale=x.scale, variant=variant, smooth_k=smooth))


def test_a_static_shift_is_that_of_the_layer(tmp_path):
    shifts = {f"layers.{i}": torch.full((2, 64), float(i)) for i in range(3)}
    save_file(shifts, tmp_path / "shift.safetensors")
    x = inputs(layer=2)
    settings = {"smooth_k": "static", "shift": str(tmp_path / "shift.safetensors")}
    want = numerics.attention(x.q, x.k, x.v, scale=x.scale, smooth_k="static", k_shift=shifts["layers.2"])
    assert torch.equal(kernel_of("sage_attn", settings, "cpu")(x), want)


def test_exact_kernels_of_two_makes_agree_to_the_rounding_of_their_output():
    x = inputs()
    reference = exact(x)
    assert reference.dtype == torch.float32
    for attend in (kernel_of("torch_native", None, "cpu"), other_make):
        error = (attend(x).float() - reference).norm() / reference.norm()
        assert 1e-4 < error < 5e-3


def test_a_kernel_that_only_its_own_engine_can_call_is_not_offered():
    assert kernel_of("flashinfer", None, "cuda") is None
    assert kernel_of("fa3", None, "cpu") is None


@pytest.fixture
def hook(tmp_path):
    """`hook(**watch)`: the hook of an engine, for two prompts of 128 tokens."""
    np.save(tmp_path / lines.PROMPTS, np.arange(256, dtype=np.int32).reshape(2, 128))

    def make(**given):
        return Hook(Watch(folder=tmp_path, **given).spec()[0]["config"])

    return make


def prefill(ids, prefixes, news, *, on_host=True):
    lengths = {"extend_prefix_lens": torch.tensor(prefixes), "extend_seq_lens": torch.tensor(news)}
    copies = {f"{name}_cpu": lengths[name].tolist() if on_host else None for name in lengths}
    mode = SimpleNamespace(is_extend=lambda: True)
    return SimpleNamespace(forward_mode=mode, input_ids=torch.tensor(ids), **lengths, **copies)


def layer_of(module=0):
    from sglang.srt.layers.radix_attention import RadixAttention

    return RadixAttention(4, 64, 64**-0.5, num_kv_heads=2, layer_id=module)


def called(hook, batch, x):
    output = numerics.attention(x.q, x.k, x.v, scale=x.scale, variant="exact").flatten(1)
    return hook(layer_of(x.layer), (x.q.flatten(1), x.k.flatten(1), x.v.flatten(1), batch), output), output


@pytest.mark.parametrize("on_host", [True, False])
def test_prompts_are_found_in_a_batch_whole_and_without_prefix(hook, on_host):
    ids = [7, *range(128, 256), *range(128), *range(100)]
    found = hook(arm="a", is_baseline=True)._find(prefill(ids, [0, 0, 9, 0], [1, 128, 128, 100], on_host=on_host))
    assert list(found) == [(1, slice(1, 129))]


def test_the_first_time_is_kept_and_the_second_compared(hook, tmp_path):
    baseline = hook(arm="a", is_baseline=True, kernels=[Kernel(arm="s", backend="sage_attn")])
    x, batch = inputs(tokens=128), prefill(range(128), [0], [128])
    assert called(baseline, batch, x)[0] is None
    first = list(lines.read(tmp_path))
    assert {e.cell for e in first} == {lines.SAME}
    assert [(e.arm, e.sums is not None, e.exact is not None) for e in first] == [
        ("a", False, True),
        ("s", True, True),
        (lines.OTHER, True, True),
    ]
    called(baseline, batch, x)
    called(hook(arm="b"), batch, x._replace(q=x.q * 1.5))
    repeat, other = list(lines.read(tmp_path))[3:]
    assert (repeat.cell, repeat.arm, repeat.sums.squared) == (lines.OWN, "a", 0)
    assert (other.cell, other.arm) == (lines.OWN, "b")
    assert other.sums.squared > 0


def test_in_its_turn_an_arms_output_takes_the_layers_place(hook, tmp_path):
    baseline = hook(arm="a", is_baseline=True, kernels=[Kernel(arm="s", backend="sage_attn")])
    x = inputs(tokens=128)
    called(baseline, prefill(range(128), [0], [128]), x)
    (tmp_path / lines.TURN).write_text("s")
    replaced, output = called(baseline, prefill(range(128), [0], [128]), x)
    want = numerics.attention(x.q, x.k, x.v, scale=x.scale)
    assert torch.equal(replaced, want.flatten(1))
    assert not torch.equal(replaced, output)
    *_, last = lines.read(tmp_path)
    assert (last.cell, last.arm) == (lines.OWN, "s")


def test_a_kernel_that_fails_is_noted_and_the_others_go_on(hook, tmp_path):
    broken = {"smooth_k": "static", "shift": str(tmp_path / "none")}
    baseline = hook(
        arm="a",
        is_baseline=True,
        kernels=[
            Kernel(arm="broken", backend="sage_attn", settings=broken),
            Kernel(arm="s", backend="sage_attn"),
        ],
    )
    for layer in (0, 1):
        called(baseline, prefill(range(128), [0], [128]), inputs(layer, tokens=128))
    found = list(lines.read(tmp_path))
    [error] = [e.error for e in found if e.error]
    assert "there is no such file" in error
    assert sum(e.arm == "s" for e in found) == 2


def test_torchs_own_kernel_may_fail_too(hook, tmp_path, monkeypatch):
    def refuse(_):
        raise RuntimeError("no kernel here")

    monkeypatch.setattr(kernels, "other_make", refuse)
    baseline = hook(arm="a", is_baseline=True, kernels=[Kernel(arm="s", backend="sage_attn")])
    for layer in (0, 1):
        called(baseline, prefill(range(128), [0], [128]), inputs(layer, tokens=128))
    found = list(lines.read(tmp_path))
    assert {line.arm: line.error for line in found if line.error} == {lines.OTHER: f"{lines.OTHER}: no kernel here"}
    assert sum(line.arm == "s" for line in found) == 2


def test_another_dtype_and_another_model_are_refused(hook):
    x, batch = inputs(tokens=128), prefill(range(128), [0], [128])
    called(hook(arm="a", is_baseline=True), batch, x)
    with pytest.raises(EngineError, match="arms of one dtype"):
        called(hook(arm="b"), batch, Inputs(0, x.q.float(), x.k.float(), x.v.float(), x.scale))
    with pytest.raises(EngineError, match="kept no output of layer 1"):
        called(hook(arm="b"), batch, x._replace(layer=1))


def test_an_output_that_is_not_finite_is_refused(hook, monkeypatch):
    monkeypatch.setattr(kernels, "other_make", lambda x: x.q * torch.nan)
    with pytest.raises(EngineError, match="torch SDPA: the attention output of layer 0 is not finite"):
        called(hook(arm="a", is_baseline=True), prefill(range(128), [0], [128]), inputs(tokens=128))
