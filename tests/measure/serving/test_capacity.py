"""The largest context that fits: sizes small enough to solve by hand."""

import pytest

from sage_eval.measure.serving.memory import FORMULA, Largest, largest, transient
from sage_eval.measure.serving.summary import Served
from sage_eval.store import record as records
from sage_eval.store.record import ArmEntry
from tests.measure.serving.conftest import empty
from tests.measure.serving.test_serving_view import STORED, render

MIB = 1 << 20


@pytest.fixture
def made():
    """An arm that holds 100 MiB and a cache of 1,000 tokens of 1 KiB; a prefill of n tokens takes n/4 KiB more.

    The device has 201 MiB free, and 1 MiB is CUDA's own: 100 MiB are left for 1.25 KiB a token.
    """
    cache = 1001 * 1024
    memory = {
        "weights": 90 * MIB, "kv_cache": cache, "kv_tokens": 1000, "allocated": 99 * MIB + cache,
        "device_free": 201 * MIB, "beyond_torch": MIB,
    }  # fmt: skip
    rest = 100 * MIB + cache  # a lazy workspace has come to what it held at first
    rows = [
        Served(
            arm="a", cell=f"prefill/{size}", block=place, requests=1, tokens=size, seconds=[1.0],
            memory={"before_allocated": rest, "peak_allocated": rest + size * 256, "peak_reserved": 2 * rest},
        )
        for place, size in enumerate((1024, 4096))
    ]  # fmt: skip
    arms = {"a": ArmEntry(role="baseline", arguments={}, memory=memory)}
    return empty({"name": "m"}, "a", arms=arms, rows=rows)


def test_memory_bounds_the_tokens_where_the_model_takes_more(made):
    tokens = 100 * 1024 * 4 // 5
    assert largest(made, "a") == Largest(tokens, "memory", 101 * MIB, tokens * 256, 1024, 201 * MIB, 4096)
    made.provenance.model["max_position_embeddings"] = tokens + 1
    assert largest(made, "a").bound == "memory"


def test_model_bounds_them_where_memory_would_do(made):
    made.provenance.model["max_position_embeddings"] = 8192
    assert largest(made, "a") == Largest(8192, "model", 101 * MIB, 8192 * 256, 1024, 201 * MIB, 4096)


def test_weights_that_leave_nothing_fit_no_token(made):
    made.arms["a"].memory["device_free"] = 50 * MIB
    assert largest(made, "a").tokens == 0


@pytest.mark.parametrize("name", ["allocated", "device_free", "beyond_torch"])
def test_without_a_term_nothing_is_derived(made, name):
    del made.arms["a"].memory[name]
    assert largest(made, "a") is None
    assert "largest context" not in render(made)


def test_from_prompts_within_a_chunk_nothing_longer_than_the_chunk_is_derived(made):
    made.arms["a"].engine["chunked_prefill_size"] = 8192
    found = largest(made, "a")
    assert found == Largest(None, "chunk", 101 * MIB, None, 1024, 201 * MIB, 4096)
    row = "| a | 201.0 | 101.0 | – | 1,024 | – | not derived: no two prompts of a whole chunk were measured"
    assert row in render(made)


def test_one_prompt_of_a_chunk_does_not_tell_how_it_goes_on(made):
    made.arms["a"].engine["chunked_prefill_size"] = 4096
    assert largest(made, "a").bound == "chunk"


def test_two_prompts_of_a_chunk_and_more_do(made):
    made.arms["a"].engine["chunked_prefill_size"] = 1024
    assert largest(made, "a").tokens == 100 * 1024 * 4 // 5


def test_what_ends_within_the_chunk_is_derived_from_prompts_within_it(made):
    made.arms["a"].engine["chunked_prefill_size"] = 8192
    made.provenance.model["max_position_embeddings"] = 6000
    assert largest(made, "a") == Largest(6000, "model", 101 * MIB, 6000 * 256, 1024, 201 * MIB, 4096)
    made.arms["a"].memory["device_free"] = 101 * MIB + 5000 * 1280
    assert largest(made, "a") == Largest(5000, "memory", 101 * MIB, 5000 * 256, 1024, 101 * MIB + 5000 * 1280, 4096)


def test_prompts_that_are_not_cut_grow_as_they_did(made):
    made.arms["a"].engine["chunked_prefill_size"] = -1
    assert largest(made, "a").tokens == 100 * 1024 * 4 // 5


def test_transient_bytes_between_and_beyond_what_was_measured():
    measured = {1000: 10_000, 3000: 30_000, 5000: 40_000}
    assert [transient(measured, n) for n in (10, 1000, 2000, 4000, 7000)] == [10_000, 10_000, 20_000, 35_000, 50_000]


def test_transient_bytes_never_fall_and_one_length_is_taken_to_grow_from_nothing():
    assert [transient({1000: 10_000, 2000: 8_000}, n) for n in (2000, 9000)] == [10_000, 10_000]
    assert transient({1000: 10_000}, 3000) == 30_000


def test_table_shows_the_terms_the_bound_and_that_it_was_not_run(made):
    text = render(made)
    row = "| a | 201.0 | 101.0 | 20.0 | 1,024 | 81,920 | the GPU's memory, extrapolated beyond 4,096 tokens |"
    assert row in text
    assert FORMULA in text
    assert "Derived, not run" in text


def test_cache_of_another_command_is_not_taken_for_what_is_at_rest(made):
    before = largest(made, "a")
    for row in made.rows:
        more = 50 * MIB
        row.memory = {name: value + more for name, value in row.memory.items()}
        row.memory["kv_cache"] = made.arms["a"].memory["kv_cache"] + more
    assert largest(made, "a") == before


def test_record_of_an_earlier_version_has_no_such_table():
    assert "largest context" not in render(records.read(Served, STORED, "serving"))
