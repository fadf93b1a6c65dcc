"""The plan: what is sent at which rate, what a server is told, and what is refused. No engine."""

from pathlib import Path

import pytest

from sage_eval.errors import PrerequisiteError, UsageError
from sage_eval.probes import gpu
from sage_eval.probes.arms import parse_arms
from sage_eval.probes.rate.plan import make_plan
from sage_eval.probes.shape import describe, write_shape

BASE, FAST = "fa3", "sage_attn+fa3"


@pytest.fixture
def model(tmp_path):
    return write_shape("llama-3.1-8b", tmp_path / "shape")


def test_low_rates_come_first_and_each_once_before_it_is_repeated(model):
    plan = make_plan(model, parse_arms(BASE), None, [None, 4.0, 1.0, 4.0], repeats=2)
    assert list(plan.cells()) == [(0, 1.0), (0, 4.0), (0, None), (1, 1.0), (1, 4.0), (1, None)]


def test_a_low_rate_is_sent_fewer_requests(model):
    plan = make_plan(model, parse_arms(BASE), None, [0.01, 2.0, 100.0, None], requests=60, seconds=10)
    sizes = {rate: plan.load(rate, 0, 1000).requests for rate in plan.rates}
    assert sizes == {0.01: 4, 2.0: 20, 100.0: 60, None: 60}


def test_each_repeat_sends_other_requests_and_each_arm_the_same(model):
    plan = make_plan(model, parse_arms(BASE), None, [2.0, 4.0], requests=10)
    first, again, second = (plan.load(2.0, repeat, 1000) for repeat in (0, 0, 1))
    assert first == again
    assert first.seed != second.seed


def test_the_cache_holds_what_runs_together(model):
    plan = make_plan(model, parse_arms(BASE), None, [1.0], requests=100, running=8, input_tokens=1000, output_tokens=24)
    arguments = plan.engine_arguments()
    assert arguments["max_length"] == 1024
    assert arguments["max_total_tokens"] == 8 * 1024 + 2048
    assert arguments["max_running_requests"] == arguments["cuda_graph_max_bs_decode"] == 8
    assert plan.warm_up(1000).requests == 8


def test_with_a_prefix_cache_it_is_emptied_and_graphs_of_the_user_are_not_added_to(model):
    mine = {"disable_radix_cache": False, "disable_cuda_graph": True}
    plan = make_plan(model, parse_arms(BASE), None, [1.0], model_args=mine)
    load = plan.load(1.0, 0, 1000)
    assert "--flush-cache" in load.arguments("http://x", Path("w"), Path("o"))
    assert "--flush-cache" not in load.model_copy(update={"flush": False}).arguments("http://x", Path("w"), Path("o"))
    assert "cuda_graph_max_bs_decode" not in plan.engine_arguments()


def test_a_rehearsal_is_short_and_of_other_requests(model):
    plan = make_plan(
        model, parse_arms(BASE), None, [0.1, 2.0, 100.0, None], requests=60, running=20, rehearsal=5.0, seconds=10
    )
    found = {rate: plan.rehearse(rate, 1000) for rate in plan.rates}
    assert {rate: load and load.requests for rate, load in found.items()} == {0.1: None, 2.0: 10, 100.0: 60, None: 40}
    assert found[2.0].seed not in {plan.load(2.0, repeat, 1000).seed for repeat in range(plan.repeats)}
    assert plan.settings()["rehearsal"] == 5.0


def test_without_a_rehearsal_there_is_none(model):
    plan = make_plan(model, parse_arms(BASE), None, [2.0, None], rehearsal=0.0)
    assert [plan.rehearse(rate, 1000) for rate in plan.rates] == [None, None]


@pytest.mark.parametrize(("gib", "together"), [(78, [[BASE, FAST]]), (40, [[BASE], [FAST]])])
def test_two_servers_of_llama_8b_fit_on_80_gb_and_one_on_40(model, monkeypatch, gib, together):
    monkeypatch.setattr(gpu, "state", lambda: {"free_mib": gib * 1024})
    plan = make_plan(model, parse_arms(f"{BASE},{FAST}"), None, [1.0])
    assert [[arm.name for arm in group] for group in plan.groups(describe(model))] == together


@pytest.mark.parametrize(
    ("rates", "baseline", "message"),
    [([], None, "over 0"), ([0.0], None, "over 0"), ([float("nan")], None, "over 0"), ([1.0], "x", "none of the arms")],
)
def test_plans_that_cannot_be_are_refused(model, rates, baseline, message):
    with pytest.raises(UsageError, match=message):
        make_plan(model, parse_arms(BASE), baseline, rates)


def test_a_folder_without_a_config_is_no_model(tmp_path):
    with pytest.raises(PrerequisiteError, match="--shape"):
        make_plan(tmp_path, parse_arms(BASE), None, [1.0])
