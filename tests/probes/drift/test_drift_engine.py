"""Drift in a real engine: a repeat has none, INT4 more than INT8, and a shared engine shows what an own one does."""

from functools import partial

import pytest
from transformers import AutoTokenizer

from sage_eval.engine.options import ArmOptions
from sage_eval.probes.arms import parse_arms
from sage_eval.probes.drift.lines import OTHER, REPEAT
from sage_eval.probes.drift.run import Contender, contender, probe

pytestmark = [pytest.mark.slow, pytest.mark.engine]
TOKENS = 192
ABOUT = {
    "command": "", "model": {}, "text": "", "tokens": TOKENS, "source": "", "versions": {}, "host": {}, "devices": [],
}  # fmt: skip
ARGUMENTS = {"dtype": "bfloat16", "max_length": TOKENS + 8, "disable_cuda_graph": True}


@pytest.fixture(scope="module")
def prompts(reference_model, prose_ids):
    return [tuple(prose_ids[start : start + TOKENS]) for start in (0, 700)]


@pytest.fixture(scope="module")
def prose_ids(reference_model):
    from tests.conftest import ROOT

    return AutoTokenizer.from_pretrained(reference_model).encode((ROOT / "LICENSE").read_text())


def contenders(open_arm, model, arms, own):
    """The arms; the baseline and those of `own` with an engine of their own."""
    for place, arm in enumerate(parse_arms(arms)):
        arguments = ARGUMENTS | arm.arguments
        opened = partial(open_arm, **arguments) if not place or arm.name in own else None
        yield Contender(arm.name, ArmOptions.from_arguments(str(model), **arguments), opened)


@pytest.fixture(scope="module")
def record(open_arm, reference_model, prompts):
    arms = "torch_native,sage_attn,sage_attn:variant=int4-fp16,sage_attn:variant=exact"
    *_, found = probe(list(contenders(open_arm, reference_model, arms, own=())), prompts, ABOUT)
    return found


def test_every_layer_is_there_in_both_ways(record, reference_model):
    layers = list(range(8))
    names = [arm.name for arm in record.arms[1:]] + [OTHER]
    for way, chosen in (("forced", names), ("free", [*names, REPEAT])):
        for name in chosen:
            assert [layer.layer for layer in record.find(way, name).layers] == layers, (way, name)
    assert [keys.layer for keys in record.keys] == layers


def test_the_baseline_repeated_has_no_drift_at_all(record):
    for layer in record.find("free", REPEAT).layers:
        assert (layer.relative_l2, layer.largest, layer.worst_cosine) == (0, 0, 1)


@pytest.mark.parametrize("way", ["forced", "free"])
def test_int4_drifts_more_than_int8_and_that_more_than_rounding_in_every_layer(record, way):
    four, eight, exact = (
        [layer.relative_l2 for layer in record.find(way, name).layers]
        for name in ("sage_attn:variant=int4-fp16", "sage_attn", "sage_attn:variant=exact")
    )
    assert all(a > 4 * b for a, b in zip(four, eight, strict=True))
    assert all(a > b for a, b in zip(eight, exact, strict=True))
    assert 0 < max(exact[0], record.find("forced", OTHER).mean_l2) < 0.004  # bf16 has 8 bits


def test_error_accumulates_after_the_first_layer_whose_inputs_are_the_same(record):
    forced, free = (record.find(way, "sage_attn").layers for way in ("forced", "free"))
    assert forced[0] == free[0]
    assert all(b.relative_l2 > a.relative_l2 for a, b in zip(forced[1:], free[1:], strict=True))
    assert 0 < record.share("forced", "sage_attn") < record.share("free", "sage_attn") < 1


def test_in_its_own_engine_an_arm_drifts_as_in_the_baselines(record, open_arm, reference_model, prompts):
    given = list(contenders(open_arm, reference_model, "torch_native,sage_attn", own=("sage_attn",)))
    *_, found = probe(given, prompts, ABOUT)
    assert found.find("free", "sage_attn") == record.find("free", "sage_attn")
    assert found.arms[1].coverage["prefill/sage-torch-int8-fp16"] == 2 * TOKENS


def test_an_arm_that_does_not_start_is_noted(open_arm, reference_model, prompts):
    baseline, other = contenders(open_arm, reference_model, "torch_native,sage_attn", own=("sage_attn",))
    broken = partial(other.opened, max_total_tokens=16)
    *_, found = probe([baseline, Contender(other.name, other.options, broken)], prompts, ABOUT)
    assert "16" in found.arms[1].error
    assert found.find("free", "sage_attn") is None
    assert found.find("forced", "sage_attn") is not None


def test_arms_that_the_hook_cannot_follow_are_refused(reference_model):
    [arm] = parse_arms("torch_native")
    for common, named in (
        ({"tp_size": 2}, "tp_size"),
        ({"mode": "throughput"}, "whole"),
        ({"disable_cuda_graph": False}, "graph"),
    ):
        with pytest.raises(ValueError, match=named):
            contender(str(reference_model), arm, common, alone=True)
