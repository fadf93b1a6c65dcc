"""The determinism probe: its arithmetic, its table, and one real comparison of `sage_attn` with itself."""

import re
from pathlib import Path

import numpy as np
import pytest

from sage_eval.cli import main
from sage_eval.errors import EngineError
from sage_eval.measure.base import View
from sage_eval.measure.determinism.instrument import WAYS, Determinism, Ways
from sage_eval.measure.determinism.ways import Answers, against, refuse_cache
from sage_eval.measure.determinism.worker import DeterminismWorker
from sage_eval.report.measurements import text
from sage_eval.store import record as records
from sage_eval.store.record import ArmEntry

STORED = Path(__file__).parents[1] / "stored"
ONE = Answers(logprobs=np.array([[-1.0, -2.0]]), outputs=[(1, 2)])
OTHER = Answers(logprobs=ONE.logprobs + 0.5, outputs=ONE.outputs)


def view(**changed: set[str]) -> View:
    """That of arms in which these ways differ from `whole`."""
    record = records.read(Ways, STORED / "determinism_schema_1.json", "determinism")
    rows = [
        Ways(arm=arm, cell="ways", block=0, backend="b", error=None,
             ways=[against(ONE, OTHER if way in ways else ONE, way) for way in WAYS if way != "whole"])
        for arm, ways in changed.items()
    ]  # fmt: skip
    arms = {arm: ArmEntry(role="candidate", arguments={}) for arm in changed}
    return Determinism().view(record.model_copy(update={"rows": rows, "arms": arms}))


def shown(**changed: set[str]) -> str:
    """The same as text."""
    return text(view(**changed))


def test_identity_is_counted_by_prompt_and_differences_by_token():
    whole = Answers(logprobs=np.array([[-1.0, -2.0], [-3.0, -4.0]]), outputs=[(1, 2), (3, 4)])
    other = Answers(logprobs=np.array([[-1.0, -2.0], [-3.0, -4.5]]), outputs=[(1, 2), (3, 5)])
    found = against(whole, other, "batched")
    assert (found.identical, found.same_output, found.prompts) == (1, 1, 2)
    assert (found.mean, found.largest) == (0.125, 0.5)


def test_what_changes_bits_is_named_with_the_setting_that_avoids_it():
    batches = "batch-mates (none with `max_running_requests=1`)"
    text = shown(a={"batched", "shuffled", "prefix"}, c=set())
    assert (
        f"- a: {batches}, cached prefixes (none with `disable_radix_cache=True`)\n- c: nothing that was tried" in text
    )


def test_request_that_differs_twice_leaves_nothing_else_to_blame():
    assert "- a: chance (the same request twice)" in shown(a=set(WAYS))


def test_the_figure_has_a_row_per_way_and_a_mark_per_arm():
    [svg] = view(a={"batched"}, b=set()).figures
    words = re.findall(r">([^<>]+)</text>", svg.text)
    assert {"repeat", "batched", "shuffled", "chunked", "prefix", "a", "b"} <= {*words}


def test_the_figure_sets_the_distance_of_other_kernels_beside_the_ways():
    published = Path(__file__).parents[3] / "results" / "probes-h100" / "determinism.json"
    [svg] = Determinism().view(records.read(Ways, published, "determinism")).figures
    assert "other kernel: from fa3" in svg.text


def test_arms_that_nothing_moves_have_no_figure():
    assert view(a=set(), b=set()).figures == []


@pytest.mark.parametrize(
    ("way", "hits", "together", "reason"),
    [("prefix", 0, False, "not found in the cache"), ("whole", 3, False, "3 tokens came from the cache")],
)
def test_cache_that_is_not_used_as_the_way_says_is_an_error(way, hits, together, reason):
    with pytest.raises(EngineError, match=reason):
        refuse_cache("fa3", way, hits, together)
    refuse_cache("fa3", "batched", hits, together=True)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--model-args", "chunked_prefill_size=64"], "chunked_prefill_size: the probe sets it itself"),
        (["--model-args", "disable_radix_cache=true"], "disable_radix_cache: the probe sets it itself"),
        (["--chunk", "2048"], "--chunk 2048 must be shorter"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_an_engine_starts(reference_model, capsys, options, reason):
    assert main(["probe", "determinism", str(reference_model), "--arms", "torch_native", *options]) == 2
    assert reason in " ".join(capsys.readouterr().err.split())


def test_stored_record_of_schema_1_has_its_numbers():
    stored = records.read(Ways, STORED / "determinism_schema_1.json", "determinism")
    assert list(stored.arms) == ["triton", "sage_attn"]
    assert stored.baseline == "triton"
    shown = text(Determinism().view(stored))
    assert shown.startswith("8 prompts of 2,048 tokens;")
    assert "| triton | chunked: alone, `chunked_prefill_size` | 0/8 | 0.011 |" in shown


@pytest.mark.slow
@pytest.mark.engine
def test_batch_keeps_every_bit_and_chunks_do_not(reference_model, prose, tmp_path):
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(reference_model).encode(prose)
    prompts = [ids[start : start + 512] for start in (0, 700, 1400)]
    worker = DeterminismWorker(str(reference_model), {"attention_backend": "sage_attn", "max_length": 600})
    try:
        answer = worker.serve(prompts, chunk=128, generated=4, whole=str(tmp_path / "whole.npy"))
    finally:
        worker.close()
    ways = {way["way"]: way for way in answer["ways"]}
    for name in ("repeat", "batched", "shuffled"):
        assert (ways[name]["identical"], ways[name]["largest"], ways[name]["same_output"]) == (3, 0, 3), name
    for name in ("chunked", "prefix"):  # the mean of K that smooths it is taken over what has been seen
        assert ways[name]["identical"] == 0
        assert 0 < ways[name]["mean"] < 0.1, name
