from hypothesis import given
from hypothesis import strategies as st

from sage_eval.engine.planning import Payloads, group_generations, group_scores
from sage_eval.engine.requests import GenerateRequest, ScoreRequest, score_payload

tokens = st.lists(st.integers(0, 3), min_size=1, max_size=5).map(tuple)
score_requests = st.lists(st.builds(ScoreRequest, context=tokens, continuation=tokens), max_size=30)


def test_four_answers_of_a_question_are_one_prompt():
    question = tuple(range(100))
    requests = [ScoreRequest(question, (answer,)) for answer in (5, 6, 7, 8)]

    (group,) = group_scores(requests, share_prefixes=False)

    payload = score_payload([requests[member] for member in group], greedy=True)
    assert payload["input_ids"] == list(question)
    assert payload["token_ids_logprob"] == [5, 6, 7, 8]
    assert payload["logprob_start_len"] == -1, "no log-probabilities of the question itself are needed"
    assert group == [0, 1, 2, 3]


def test_longer_answers_report_from_the_shortest_context_on():
    requests = [ScoreRequest((1, 2, 3), (4, 5)), ScoreRequest((1, 2), (3, 4, 9))]

    (group,) = group_scores(requests, share_prefixes=False)

    payload = score_payload([requests[member] for member in group], greedy=False)
    assert payload["logprob_start_len"] == 1
    assert payload["token_ids_logprob"] == [5, 9]


def test_repeats_are_computed_once():
    request = ScoreRequest((1, 2), (3, 4))
    (group,) = group_scores([request, request, request], share_prefixes=False)
    assert group == [0, 1, 2]


@given(score_requests)
def test_every_request_is_answered_exactly_once_by_its_own_tokens(requests):
    groups = group_scores(requests, share_prefixes=False)

    assert sorted(member for group in groups for member in group) == list(range(len(requests)))
    payloads = [score_payload([requests[member] for member in group], greedy=False) for group in groups]
    for group, payload in zip(groups, payloads, strict=True):
        for member in group:
            request = requests[member]
            assert payload["input_ids"] == [*request.context, *request.continuation[:-1]]
            assert request.continuation[-1] in payload["token_ids_logprob"]
            assert payload["logprob_start_len"] < len(request.context)
    assert len({tuple(payload["input_ids"]) for payload in payloads}) == len(groups)


@given(score_requests)
def test_order_puts_the_longest_first_or_shared_prefixes_together(requests):
    longest_first = [len(requests[group[0]].prompt) for group in group_scores(requests, share_prefixes=False)]
    assert longest_first == sorted(longest_first, reverse=True)
    by_tokens = [requests[group[0]].prompt for group in group_scores(requests, share_prefixes=True)]
    assert by_tokens == sorted(by_tokens)


def test_identical_greedy_generations_are_one_request_and_sampled_ones_are_not():
    greedy = GenerateRequest((1, 2), {"temperature": 0.0, "max_new_tokens": 4})
    other_length = GenerateRequest((1, 2), {"temperature": 0.0, "max_new_tokens": 5})
    sampled = GenerateRequest((1, 2), {"temperature": 0.7, "max_new_tokens": 4})

    groups = group_generations([greedy, sampled, greedy, sampled, other_length], share_prefixes=False)

    assert sorted(map(sorted, groups)) == [[0, 2], [1], [3], [4]]


def test_payloads_are_made_when_they_are_asked_for():
    made = []

    def make(index):
        made.append(index)
        return {"input_ids": [index]}

    payloads = Payloads(make, range(10)).at([7, 3, 5])
    assert (len(payloads), made) == (3, [])
    assert payloads[2]["input_ids"] == [5]
    assert [payload["input_ids"] for payload in payloads] == [[7], [3], [5]]
    assert made == [5, 7, 3, 5]
