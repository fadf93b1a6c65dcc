"""An arm on a transport that answers from a table: what depends on replies that a healthy engine does not give."""

import pytest

from sage_eval.engine.arm import Arm
from sage_eval.engine.options import ArmOptions
from sage_eval.engine.requests import ScoreRequest
from sage_eval.errors import CoverageError, PrerequisiteError


class Table:
    """Answers one-token scores with -(last prompt token); counts what `counted` says of the prompts it saw."""

    repeated_tokens = 0

    def __init__(self, *, counted=1.0, kernel="sage-torch-int8-fp16", room=100):
        self.counted, self.kernel, self.room, self.seen = counted, kernel, room, 0

    def stream(self, batch):
        for index in reversed(range(len(batch))):
            prompt = batch[index]["input_ids"]
            self.seen += len(prompt)
            after = [(-float(prompt[-1]), token, None) for token in batch[index]["token_ids_logprob"]]
            meta = {"prompt_tokens": len(prompt), "cached_tokens": 0, "completion_tokens": 0}
            yield index, {"meta_info": meta | {"output_token_ids_logprobs": [after], "output_top_logprobs": [after]}}

    def info(self):
        tokens = {f"prefill/{self.kernel}": self.counted * self.seen * 8}
        return {
            "max_req_input_len": self.room,
            "internal_states": [{"sage_attn_coverage": {"layers": 8, "tokens": tokens}}],
        }

    def flush_cache(self):
        pass

    def close(self):
        pass


def sage(**arguments):
    return ArmOptions.from_arguments("model", attention_backend="sage_attn", **arguments)


REQUESTS = [ScoreRequest((1, 2, last), (9,)) for last in (5, 3, 4, 3)]


def test_results_come_in_the_callers_order_and_are_announced_as_they_arrive():
    announced = []
    scores = Arm(sage(), Table()).score(REQUESTS, on_result=lambda index, score: announced.append(index))
    assert [score.total for score in scores] == [-5.0, -3.0, -4.0, -3.0]
    assert sorted(announced) == [0, 1, 2, 3]


def test_another_order_of_the_requests_changes_no_answer():
    class Recorder(Table):
        def stream(self, batch):
            self.lasts = [payload["input_ids"][-1] for payload in batch]
            yield from super().stream(batch)

    many = [ScoreRequest((1, 2, last), (9,)) for last in range(50)]
    orders = []
    for seed in (None, 1, 1, 2):
        transport = Recorder()
        scores = Arm(sage(order_seed=seed), transport).score(many)
        assert [score.total for score in scores] == [-float(last) for last in range(50)]
        orders.append(transport.lasts)
    plain, first, again, other = orders
    assert first == again
    assert first != plain != other != first
    assert sorted(first) == sorted(plain)


def test_coverage_adds_up_over_calls():
    arm = Arm(sage(), Table())
    arm.score(REQUESTS)
    arm.score(REQUESTS[:1])
    assert arm.coverage.prompt_tokens == 12
    assert arm.coverage.tokens == {"prefill/sage-torch-int8-fp16": 12}


def test_a_token_computed_by_nobody_is_an_error():
    with pytest.raises(CoverageError, match=r"computed 4\.5 prompt tokens"):
        Arm(sage(), Table(counted=0.5)).score(REQUESTS)


@pytest.mark.parametrize(
    ("arguments", "allowed"), [({}, False), ({"mode": "throughput"}, True), ({"variant": "exact"}, True)]
)
def test_another_kernel_is_an_error_unless_it_was_asked_for(arguments, allowed):
    arm = Arm(sage(**arguments), Table(kernel="exact-sdpa"))
    if allowed:
        arm.score(REQUESTS)
    else:
        with pytest.raises(CoverageError, match="exact-sdpa: 9"):
            arm.score(REQUESTS)


def test_a_window_the_engine_cannot_hold_is_refused():
    with pytest.raises(PrerequisiteError, match="serves prompts of 99 tokens, fewer than max_length=100"):
        Arm(sage(max_length=100), Table(room=100))
    Arm(sage(max_length=99), Table(room=100))
