"""An arm that is killed and taken up again, on a transport that answers from a table and can die."""

import pytest

from sage_eval.engine import journal
from sage_eval.engine.arm import Arm
from sage_eval.engine.journal import Slices
from sage_eval.engine.options import ArmOptions
from sage_eval.engine.requests import GenerateRequest, ScoreRequest
from sage_eval.errors import EngineError

KERNEL = "sage-torch-int8-fp16"


class Mortal:
    """Every answer depends on its prompt alone. Dies instead of giving the reply after `lives` ones."""

    repeated_tokens = 0

    def __init__(self, lives=10**9, kernel=KERNEL):
        self.lives, self.kernel, self.seen, self.prompts, self.batches = lives, kernel, 0, [], 0

    def stream(self, batch):
        self.batches += 1
        for index in reversed(range(len(batch))):
            if len(self.prompts) == self.lives:
                raise EngineError("SGLang's scheduler died: test")
            payload = batch[index]
            ids = payload["input_ids"]
            self.prompts.append(tuple(ids))
            self.seen += len(ids)
            news = payload["sampling_params"]["max_new_tokens"]
            meta = {"prompt_tokens": len(ids), "cached_tokens": 0, "completion_tokens": news}
            after = [(-(ids[-1] + token) / 7, token, None) for token in payload.get("token_ids_logprob", ())]
            inside = [(-token / 3, token, None) for token in ids]
            meta |= {"output_token_ids_logprobs": [after], "output_top_logprobs": [[(-0.5, 0, None)]]}
            meta |= {"input_token_logprobs": inside, "input_top_logprobs": [[(-1.0, 0, None)]] * len(ids)}
            yield index, {"output_ids": [ids[-1]] * news, "meta_info": meta | {"finish_reason": {"type": "length"}}}

    def info(self):
        counted = {f"prefill/{self.kernel}": 8 * self.seen}
        return {
            "max_req_input_len": 100,
            "internal_states": [{"sage_attn_coverage": {"layers": 8, "tokens": counted}}],
        }

    def close(self):
        pass


SCORES = [ScoreRequest(tuple(range(1, 2 + n % 9)), (n % 5, n)) for n in range(40)]
"""Some of them share their prompt, so that groups have several members."""
ANSWERS = [GenerateRequest((n % 7, n), {"max_new_tokens": 2, "temperature": 0.0}) for n in range(30)]


@pytest.fixture(autouse=True)
def short_slices(monkeypatch):
    monkeypatch.setattr(journal, "FIRST_TOKENS", 20)
    monkeypatch.setattr(journal, "GROWTH", 1)


@pytest.fixture
def run(tmp_path):
    def evaluate(transport, *, journal=True, key="weights", generations=ANSWERS, **options):
        arm = Arm(ArmOptions.from_arguments("model", attention_backend="sage_attn", **options), transport)
        if journal:
            arm.keep(tmp_path / "journal", key)
        announced = []
        try:
            scores = arm.score(SCORES, on_result=lambda index, _: announced.append(index))
            assert sorted(announced) == list(range(len(SCORES)))
            return scores, arm.generate(generations), arm.coverage, arm
        finally:
            arm.close()

    return evaluate


def total(run, **options):
    transport = Mortal()
    *whole, _ = run(transport, journal=False, **options)
    return whole, transport


@pytest.mark.parametrize("options", [{}, {"order_seed": 3}])
@pytest.mark.parametrize("lives", [0, 1, 11, 30, 45, 69])
def test_a_second_run_sends_what_is_missing_and_ends_as_one_run_would(run, lives, options):
    expected, whole = total(run, **options)
    first, second = Mortal(lives), Mortal()
    with pytest.raises(EngineError):
        run(first, **options)
    *found, arm = run(second, **options)
    assert found == expected
    assert len(second.prompts) == len(whole.prompts) - arm.kept_requests
    # What was lost is the slice in which it died: of 20 tokens, 1 at least a request, and a rest of under half a slice.
    assert 0 <= lives - arm.kept_requests <= 30


def test_what_dies_again_and_again_comes_to_an_end(run):
    expected, _ = total(run)
    for _ in range(3):
        with pytest.raises(EngineError):
            run(Mortal(lives=20))
    *found, arm = run(Mortal(lives=20))
    assert found == expected
    assert arm.kept_requests > 40


def test_a_finished_journal_leaves_nothing_to_send(run):
    *first, _ = run(Mortal())
    again = Mortal()
    *second, arm = run(again)
    assert second == first
    assert again.prompts == []
    assert arm.kept_seconds > 0


@pytest.mark.parametrize("change", [{"key": "other weights"}, {"variant": "exact"}, {"order_seed": 1}])
def test_other_weights_or_settings_start_over(run, change):
    run(Mortal())
    transport = Mortal()
    *_, arm = run(transport, **change)
    assert arm.kept_requests == 0
    assert len(transport.prompts) == len(total(run)[1].prompts)


def test_other_code_starts_over(run, monkeypatch):
    run(Mortal())
    monkeypatch.setattr("sage_eval.engine.arm.code_key", lambda: "an edited kernel")
    assert run(Mortal())[-1].kept_requests == 0


def test_sampled_answers_are_drawn_anew(run):
    sampled = [GenerateRequest((n, n), {"max_new_tokens": 1, "temperature": 0.7}) for n in range(5)]
    mixed = [one for pair in zip(sampled, ANSWERS, strict=False) for one in pair]
    run(Mortal(), generations=mixed)
    transport = Mortal()
    _, generations, _, _ = run(transport, generations=mixed)
    assert sorted(transport.prompts) == sorted(request.prompt for request in sampled)
    assert [one.tokens[0] for one in generations] == [request.prompt[-1] for request in mixed]


def test_other_requests_with_the_same_prompts_are_asked_again(run, tmp_path):
    def ask(requests):
        transport = Mortal()
        with Arm(ArmOptions.from_arguments("model", attention_backend="sage_attn"), transport) as arm:
            arm.keep(tmp_path / "journal", "weights")
            return arm.score(requests), transport

    whole, parts = ScoreRequest((1,), (2, 3)), ScoreRequest((1, 2), (3,))
    ask([whole, parts])
    scores, transport = ask([whole, whole])
    assert transport.prompts == [(1, 2)]
    assert [len(score.logprobs) for score in scores] == [2, 2]


def test_a_slice_that_fails_its_coverage_is_not_kept(run):
    from sage_eval.errors import CoverageError

    class Fallback(Mortal):
        def info(self):
            self.kernel = KERNEL if self.batches < 2 else "exact-sdpa"
            return super().info()

    with pytest.raises(CoverageError):
        run(Fallback())
    transport = Mortal()
    *found, arm = run(transport)
    assert found == total(run)[0]
    assert 0 < arm.kept_requests < 20


def payloads(*sizes, news=0):
    return [{"input_ids": [1] * size, "sampling_params": {"max_new_tokens": news}} for size in sizes]


def cuts(plan, count, seconds):
    places = [0]
    while places[-1] < count:
        stop = plan.next(places[-1])
        plan.took(places[-1], stop, seconds * (stop - places[-1]))
        places.append(stop)
    return places


def test_slices_grow_to_the_time_they_should_take(monkeypatch):
    monkeypatch.setattr(journal, "GROWTH", 16)
    # A request of 10 tokens takes 0.1 s: 30 s are 300 requests, 120 s are 1,200.
    assert cuts(Slices(payloads(*[10] * 1000)), 1000, 0.1) == [0, 2, 34, 334, 634, 1000]
    assert cuts(Slices(payloads(*[5] * 3000, news=5)), 3000, 0.1) == [0, 2, 34, 546, 1746, 3000]


def test_a_request_longer_than_a_slice_is_a_slice():
    assert cuts(Slices(payloads(50, 30, 60)), 3, 1.0)[:2] == [0, 1]
