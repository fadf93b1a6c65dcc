"""What is sent, when, and what is made of the load generator's answer: no engine."""

import asyncio

import numpy as np
import pytest

from sage_eval.errors import EngineError
from sage_eval.probes.rate.load import NEAR, Load, quantiles, sent
from sage_eval.probes.rate.words import write_words

LOAD = Load(rate=None, requests=3, input_tokens=5, output_tokens=4, seed=7, vocabulary=100)


def answer(**changes):
    """A line of the generator's output for `LOAD`: three requests, 0.1 s between tokens."""
    found = {
        "duration": 0.6, "errors": ["", "", ""], "input_lens": [5, 5, 5], "output_lens": [4, 4, 4],
        "ttfts": [0.1, 0.2, 0.3], "itls": [[0.1, 0.1, 0.1]] * 3,
    }  # fmt: skip
    return found | changes


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(write_words(100, tmp_path_factory.mktemp("words")))


def test_the_answer_becomes_latencies_to_the_last_token():
    found = LOAD.result(answer())
    assert found.ttft == [0.1, 0.2, 0.3]
    assert found.latency == pytest.approx([0.4, 0.5, 0.6])
    assert found.itl == pytest.approx({"mean": 0.1, "p50": 0.1})
    assert (found.seconds, found.input_tokens, found.output_tokens) == (0.6, 15, 12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"errors": ["", "Traceback\nClientError: reset\n", ""]}, "1 of 3 requests failed, all at once: ClientError"),
        # Refused within the stream: the generator calls it completed, with as many tokens as were asked for.
        ({"ttfts": [0.0] * 3, "itls": [[]] * 3}, "3 of 3 requests failed, all at once: no token came of it"),
        ({"output_lens": [4, 3, 4]}, "1 of 3 requests failed, all at once: 3 of 4 tokens"),
        ({n: answer()[n][:2] for n in ("errors", "ttfts", "output_lens")}, "sent 2 requests within"),
    ],
)
def test_a_request_that_fails_is_never_left_out(changes, message):
    with pytest.raises(EngineError, match=message):
        LOAD.result(answer(**changes))


def test_a_run_that_is_over_before_its_last_pause_was_not_the_one_that_was_planned():
    slow = LOAD.model_copy(update={"rate": 1.0})
    stop = slow.arrivals()[-1]
    assert slow.result(answer(duration=stop + 0.01)).seconds == stop + 0.01
    with pytest.raises(EngineError, match="draws its requests in another way"):
        slow.result(answer(duration=stop - 0.1))


def test_all_at_once_is_sent_at_the_beginning():
    assert LOAD.arrivals() == [0.0] * 4
    assert LOAD.near() is LOAD


@pytest.mark.parametrize("requests", [4, 10, 64])
def test_the_seed_is_one_whose_gaps_come_to_the_rate(requests):
    first = LOAD.model_copy(update={"rate": 5.0, "requests": requests})
    chosen = first.near()
    assert abs(sent(chosen.arrivals()[:-1]) / 5.0 - 1) <= NEAR
    assert chosen.seed >= first.seed
    assert chosen.near() == chosen


def test_at_twice_the_rate_the_same_requests_come_in_half_the_time():
    slow, fast = (LOAD.model_copy(update={"rate": rate}) for rate in (2.0, 4.0))
    assert np.array(slow.arrivals()) == pytest.approx(2 * np.array(fast.arrivals()))


def test_quantiles_of_nothing_are_none():
    assert quantiles([]) == {}


@pytest.mark.parametrize(
    ("count", "names"),
    [(99, ["mean", "p50"]), (100, ["mean", "p50", "p95"]), (500, ["mean", "p50", "p95", "p99"])],
)
def test_a_quantile_takes_values_beyond_it(count, names):
    found = quantiles([float(value) for value in range(count)])
    assert list(found) == names
    assert found["p50"] == (count - 1) / 2


def test_every_token_is_text(words):
    assert words.vocab_size == 100
    assert all(words.decode([token], skip_special_tokens=True).strip() for token in range(100))
    assert words.encode("The capital city of France is") == [0]


@pytest.mark.slow
def test_the_gaps_are_those_that_sglangs_generator_draws(words, monkeypatch):
    """SGLang's own code, with pauses that are noted and not waited for."""
    from sglang.benchmark.datasets.random import sample_random_requests
    from sglang.benchmark.serving import get_request

    load = LOAD.model_copy(update={"rate": 3.0, "requests": 50})
    pauses = []

    async def pause(seconds):
        pauses.append(seconds)

    async def send():
        return [row async for row in get_request(rows, load.rate)]

    np.random.seed(load.seed)
    rows = sample_random_requests(
        input_len=5, output_len=4, num_prompts=50, range_ratio=1.0, tokenizer=words, dataset_path="",
        random_sample=False, return_text=False,
    )  # fmt: skip
    monkeypatch.setattr("sglang.benchmark.serving.asyncio.sleep", pause)
    assert asyncio.run(send()) == rows
    assert {(len(row.prompt), row.output_len) for row in rows} == {(5, 4)}
    assert load.arrivals() == pytest.approx([0.0, *np.cumsum(pauses)])
