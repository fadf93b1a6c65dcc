"""Drift in real engines: a repeat has none, INT4 more than INT8, and a shared engine shows what an own one does."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from sage_eval.data import wikitext
from sage_eval.measure.drift.instrument import DriftPlan, DriftProbe
from sage_eval.measure.drift.lines import OTHER, OWN, SAME
from sage_eval.measure.drift.record import Latest, mean_l2

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.timeout(1800)]
TOKENS, LAYERS = 192, list(range(8))
FOUR, EXACT = "sage_attn:variant=int4-fp16", "sage_attn:variant=exact"


@pytest.fixture(scope="module")
def run(reference_model, prose, tmp_path_factory):
    """`run(folder, arms, …)`: the record of a command on two prompts."""
    ids = AutoTokenizer.from_pretrained(reference_model).encode(prose)
    prompts = [tuple(ids[start : start + TOKENS]) for start in (0, 700)]
    root = tmp_path_factory.mktemp("drift")

    def measured(folder, arms, **more):
        plan = DriftPlan(
            model=str(reference_model), arms=arms, prompts=2, tokens=TOKENS, output=root / folder,
            model_args={"dtype": "bfloat16"}, **more,
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(wikitext, "first_tokens", lambda *_: prompts)
            return DriftProbe().measure(plan)[0]

    return measured


@pytest.fixture(scope="module")
def record(run):
    return run("one", f"torch_native,sage_attn,{FOUR},{EXACT}", one_engine=True)


def test_every_layer_is_there_in_both_cells(record):
    found = Latest(record)
    for cell, names in ((SAME, [*found.arms, OTHER]), (OWN, [*found.arms, OTHER, found.baseline])):
        for name in names:
            assert [layer.layer for layer in found.layers(cell, name)] == LAYERS, (cell, name)
    assert [keys.layer for keys in found.keys] == LAYERS


def test_one_engine_starts_for_all_arms(record):
    assert [name for name, arm in record.arms.items() if arm.start_seconds is not None] == ["torch_native"]


def test_baseline_repeated_has_no_drift_at_all(record):
    for layer in Latest(record).layers(OWN, "torch_native"):
        assert (layer.relative_l2, layer.largest, layer.worst_cosine) == (0, 0, 1)


@pytest.mark.parametrize("cell", [SAME, OWN])
def test_int4_drifts_more_than_int8_and_that_more_than_rounding_in_every_layer(record, cell):
    found = Latest(record)
    four, eight, exact = ([x.relative_l2 for x in found.layers(cell, name)] for name in (FOUR, "sage_attn", EXACT))
    assert all(a > 4 * b for a, b in zip(four, eight, strict=True))
    assert all(a > b for a, b in zip(eight, exact, strict=True))
    assert 0 < max(exact[0], mean_l2(found.layers(SAME, OTHER))) < 0.004  # bf16 has 8 bits


def test_error_accumulates_after_the_first_layer_whose_inputs_are_the_same(record):
    found = Latest(record)
    same, own = (found.layers(cell, "sage_attn") for cell in (SAME, OWN))
    assert same[0] == own[0]
    assert all(b.relative_l2 > a.relative_l2 for a, b in zip(same[1:], own[1:], strict=True))
    assert 0 < found.share(SAME, "sage_attn") < found.share(OWN, "sage_attn") < 1


def test_arms_in_their_own_engines_drift_as_in_the_baselines_or_are_noted(run, record):
    broken = "sage_attn:smooth_k=static,shift=/no/such/file"
    found = run("own", f"torch_native,sage_attn,{broken}")
    assert Latest(found).layers(OWN, "sage_attn") == Latest(record).layers(OWN, "sage_attn")
    assert found.arms["sage_attn"].coverage["prefill/sage-torch-int8-fp16"] == 2 * TOKENS
    assert not Latest(found).layers(OWN, broken)
    assert "no such file" in found.arms[broken].error
    assert "no such file" in Latest(found).error(SAME, broken)


def test_new_arm_is_compared_with_a_new_run_of_the_baseline(run, record):
    before = len(record.rows)
    found = run("one", f"torch_native,{EXACT},{FOUR},sage_attn,sage_attn:smooth_k=off", one_engine=True)
    new = {(row.cell, row.arm) for row in found.rows[before:]}
    assert new == {
        (SAME, "torch_native"), (SAME, "sage_attn:smooth_k=off"), (SAME, OTHER),
        (OWN, "torch_native"), (OWN, "sage_attn:smooth_k=off"),
    }  # fmt: skip
    assert np.ptp([row.block for row in found.rows[before:]]) == 1  # one block per cell
