"""The layout of a prefill batch."""

import pytest
import torch

from sage_eval.attention.kernels.plan import make_plan


@pytest.fixture
def plan():
    return make_plan([0, 70, 5], [130, 1, 300], "cpu", [True, True, False])


def test_scratch_of_a_sequence_starts_at_a_multiple_of_128(plan):
    assert plan.sequences[:2, 4].tolist() == [0, 256]
    assert plan.slots == 256 + 128


def test_rows_and_prefixes_follow_one_another(plan):
    assert plan.sequences[:, 0].tolist() == [0, 130, 131]
    assert plan.sequences[:, 3].tolist() == [0, 0, 70]


def test_the_tile_that_sees_most_keys_comes_first(plan):
    assert plan.query_tiles[:, :2].tolist() == [[0, 128], [1, 0], [0, 0]]


def test_a_query_tile_carries_its_sequences_row(plan):
    rows = plan.sequences[plan.query_tiles[:, 0].long()]
    assert torch.equal(plan.query_tiles[:, 2:], rows)


def test_a_sequence_that_is_not_served_gets_no_work(plan):
    for table in (plan.query_tiles, plan.key_tiles, plan.chunks):
        assert 2 not in table[:, 0].tolist()


def test_key_tiles_cover_every_scratch_slot(plan):
    assert plan.key_tiles.tolist() == [[0, 0], [0, 64], [0, 128], [0, 192], [1, 0], [1, 64]]


def test_chunks_cover_the_keys_with_the_prefix():
    plan = make_plan([130], [10], "cpu")
    assert plan.chunks.tolist() == [[0, 0], [0, 64], [0, 128]]


def test_a_long_sequence_has_larger_chunks_and_no_more_than_32():
    plan = make_plan([0, 5000, 0], [2048, 3000, 0], "cpu")
    assert plan.chunks[:32].tolist() == [[0, i] for i in range(0, 2048, 64)]
    assert plan.chunks[32:].tolist() == [[1, i] for i in range(0, 8000, 256)]
    assert plan.sequences[:, 5].tolist() == [0, 32, 64]
