"""What is sent at which rate, and what is made of the load generator's outputs: no engine."""

import asyncio
import errno
from types import SimpleNamespace

import numpy as np
import pytest
import requests

from sage_eval.cli.flags import parse
from sage_eval.errors import EngineError, UsageError
from sage_eval.measure.rate import generator
from sage_eval.measure.rate.instrument import Rate
from sage_eval.measure.rate.plan import NEAR, RatePlan, gaps, near
from sage_eval.measure.rate.traffic import write_words


def plan(**given):
    return parse(RatePlan, {"shape": "llama-3.1-8b", "arms": "fa3", **given})


def test_low_rates_come_first_and_each_once_before_it_is_repeated():
    cells = list(plan(rates="inf,4,1,4", repeats=2).loads())
    assert cells == [f"{rate}, repeat {n}" for n in (1, 2) for rate in ("1/s", "4/s", "all at once")]


def test_low_rate_is_sent_fewer_requests():
    loads = plan(rates="0.01,2,100,inf", requests=60, seconds=10, repeats=1).loads().values()
    assert {load.rate: load.requests for load in loads} == {0.01: 4, 2.0: 20, 100.0: 60, None: 60}


def test_each_repeat_sends_other_requests():
    first, second = plan(rates="2", requests=10, repeats=2).loads().values()
    assert first.seed != second.seed


@pytest.mark.parametrize("count", [2, 4, 64])
def test_seed_is_one_whose_gaps_come_to_the_rate(count):
    seed = near(5, count)
    assert gaps(seed, count).sum() == pytest.approx(count - 1, rel=2 * NEAR)
    assert seed >= 5
    assert near(seed, count) == seed


def test_rehearsal_is_short_and_of_other_requests():
    made = plan(rates="0.1,2,100,inf", requests=60, running=20, rehearsal=5.0, seconds=10)
    found = {rate: made.rehearse(rate) for rate in made.rates}
    assert {rate: load and load.requests for rate, load in found.items()} == {0.1: None, 2.0: 10, 100.0: 60, None: 40}
    assert found[2.0].seed not in {load.seed for load in made.loads().values()}
    assert plan(rehearsal=0).rehearse(None) is None


def test_cache_holds_what_runs_together():
    made = plan(requests=100, running=8, input_tokens=1000, output_tokens=24)
    arguments = Rate().arguments(made)
    assert (arguments["max_length"], arguments["max_total_tokens"]) == (1024, 8 * 1024 + 2048)
    assert arguments["max_running_requests"] == arguments["cuda_graph_max_bs_decode"] == made.warm_up().requests == 8
    assert "cuda_graph_max_bs_decode" not in Rate().arguments(plan(model_args=["disable_cuda_graph=true"]))


@pytest.mark.parametrize("rates", ["", "0", "-1", "nan", "fast"])
def test_rates_that_cannot_be_are_refused(rates):
    with pytest.raises(UsageError, match="--rates"):
        plan(rates=rates)


def output(start, ttft, gaps=(0.1, 0.1, 0.1), *, tokens=4, error=""):
    """Of a request with a prompt of 5 tokens."""
    return SimpleNamespace(start_time=start, ttft=ttft, itl=list(gaps), output_len=tokens, prompt_len=5, error=error)


WARM_UP = output(90.0, 9.0)


def test_answers_are_in_the_order_of_sending_and_without_the_warm_up():
    outputs = [WARM_UP, output(100.5, 0.1), output(100.0, 0.2)]
    found = generator.answers(outputs, seed=0, rate=None, output_tokens=4)
    assert (found["sent"], found["ttft"]) == ([0.0, 0.5], [0.2, 0.1])
    assert found["latency"] == pytest.approx([0.5, 0.4])
    assert found["seconds"] == pytest.approx(0.9)
    assert found["itl"] == pytest.approx({"mean": 0.1, "p50": 0.1})
    assert (found["input_tokens"], found["output_tokens"], found["late"]) == (10, 8, 0.5)


def test_late_is_what_the_gaps_do_not_explain():
    moments = 100.0 + np.concatenate([[0.0], np.cumsum(gaps(3, 5) / 2.0)])
    outputs = [WARM_UP, *(output(moment * 1.0, 0.1) for moment in moments[:-1]), output(moments[-1] + 0.25, 0.1)]
    assert generator.answers(outputs, seed=3, rate=2.0, output_tokens=4)["late"] == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"error": "Traceback\nClientError: reset\n"}, "1 of 2 requests failed: ClientError: reset"),
        # Refused within the stream: the load generator calls it completed.
        ({"ttft": 0.0, "gaps": []}, "1 of 2 requests failed: no token came of it"),
        ({"tokens": 3}, "1 of 2 requests failed: 3 of 4 tokens"),
    ],
)
def test_request_that_fails_is_never_left_out(bad, message):
    with pytest.raises(EngineError, match=message):
        generator.answers([WARM_UP, output(100.0, 0.1), output(100.1, **{"ttft": 0.1, **bad})], 0, None, 4)


@pytest.mark.parametrize(
    ("error", "own"),
    [
        (OSError(errno.ENOSPC, "No space left"), True),
        (requests.ConnectionError("refused"), False),
        (ValueError("Initial test run failed"), False),
        (SystemExit(1), False),
    ],
)
def test_full_disk_is_the_generators_own_failure_and_a_silent_server_is_not(error, own):
    assert generator.is_own(error) is own


def test_every_token_is_text(tmp_path):
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(write_words(100, tmp_path))
    assert words.vocab_size == 100
    assert all(words.decode([token], skip_special_tokens=True).strip() for token in range(100))
    assert words.encode("The capital city of France is") == [0]


@pytest.mark.slow
def test_gaps_are_those_that_sglangs_generator_draws_after_its_warm_up(monkeypatch):
    """SGLang's own loop, with pauses that are noted and not waited for."""
    from sglang.benchmark import serving

    pauses, outputs = [], []

    async def pause(seconds):
        pauses.append(seconds)

    async def request(request_func_input, pbar):
        return request_func_input

    async def send():
        np.random.seed(99)  # wherever the prompts left it
        await generator._noted(request, outputs, 7, request_func_input="warm-up")
        monkeypatch.setattr("sglang.benchmark.serving.asyncio.sleep", pause)
        async for row in serving.get_request(list(range(50)), 3.0):
            await generator._noted(request, outputs, 7, request_func_input=row, pbar=None)

    asyncio.run(send())
    assert outputs == ["warm-up", *range(50)]
    assert pauses[:-1] == pytest.approx(list(gaps(7, 50) / 3.0))  # it waits once more after the last request
