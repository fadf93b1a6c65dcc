import dataclasses

import pytest

from sage_eval.engine.coverage import Coverage, check, coverage_delta, read_counters, tally
from sage_eval.errors import CoverageError


def replies(*counts):
    """(prompt, cached, completion) tokens of each request."""
    return [{"meta_info": {"prompt_tokens": p, "cached_tokens": c, "completion_tokens": g}} for p, c, g in counts]


def counted(replies, tokens):
    return dataclasses.replace(tally(replies, "sage_attn"), tokens=tokens, counted=True)


def state(layers=8, **tokens):
    return {"sage_attn_coverage": {"layers": layers, "tokens": tokens}}


def test_counters_are_tokens_summed_over_data_parallel_ranks():
    info = {"internal_states": [state(**{"prefill/sage": 800}), state(**{"prefill/sage": 80, "decode/exact": 16})]}
    assert read_counters(info) == {"prefill/sage": 110, "decode/exact": 2}


def test_a_backend_that_does_not_count_has_no_counters():
    assert read_counters({"internal_states": [{"version": 1}]}) is None


def test_delta_leaves_out_what_did_not_move():
    assert coverage_delta({"a": 1, "b": 2}, {"a": 1, "b": 5, "c": 3}) == {"b": 3, "c": 3}


def test_without_counters_sglangs_report_stands_under_the_backends_name():
    coverage = tally(replies((10, 0, 1), (20, 16, 5)), "triton")
    assert coverage.tokens == {"prefill/triton": 10, "prefill_prefix/triton": 4, "decode/triton": 4}
    assert (coverage.prompt_tokens, coverage.cached_tokens, coverage.computed_tokens) == (30, 16, 14)
    assert not coverage.counted


def test_counted_plus_cached_must_be_the_prompt():
    good = counted(replies((20, 16, 0)), {"prefill_prefix/sage": 4})
    check(good, sage_only=True)
    bad = counted(replies((20, 16, 0)), {"prefill_prefix/sage": 3})
    with pytest.raises(CoverageError, match=r"computed 3 prompt tokens and 16 were cached.* had 20"):
        check(bad, sage_only=True)


def test_tokens_sent_twice_may_have_been_computed_twice():
    twice = counted(replies((20, 0, 0)), {"prefill/sage": 40})
    check(twice, sage_only=True, repeated=20)
    with pytest.raises(CoverageError, match="computed 40 prompt tokens"):
        check(twice, sage_only=True, repeated=19)


def test_decode_tokens_are_no_prefill():
    check(counted(replies((20, 0, 3)), {"prefill/sage": 20, "decode/exact": 2}), sage_only=True)


def test_a_fallback_kernel_is_an_error_only_where_sage_is_required():
    coverage = counted(replies((20, 0, 0)), {"prefill/sage-paged": 15, "prefill/exact-sdpa": 5})
    check(coverage, sage_only=False)
    with pytest.raises(CoverageError, match=r"5 of 20 prompt tokens .*exact-sdpa: 5"):
        check(coverage, sage_only=True)


def test_coverages_add_up():
    total = tally(replies((10, 0, 1)), "fa3") + tally(replies((5, 5, 1)), "fa3")
    assert total == Coverage({"prefill/fa3": 10.0}, 15, 5, 2, counted=False)
