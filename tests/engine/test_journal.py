"""The journal's file: what is read back, what is dropped, what is replaced. And what identifies a call."""

import math
import os

import numpy as np
import pytest

from sage_eval.engine.coverage import Coverage
from sage_eval.engine.journal import Journal, digest, weights_key
from sage_eval.engine.requests import Generation, Score
from sage_eval.engine.topk import TopK
from sage_eval.errors import PrerequisiteError

COVERAGE = Coverage({"prefill/sage": 1 / 3, "decode/exact": 7.0}, 12, 3, 8, counted=True)
ODD = (-0.1, -math.pi * 1e-300, -5e-324, -0.0, -1.7976931348623157e308)


def part(keys="a", *answers):
    return list(keys), list(answers) or [[Score(ODD, True)]] * len(keys), COVERAGE, 1.25


@pytest.fixture
def path(tmp_path):
    return tmp_path / "arm" / "answers.journal"


def written(path, *parts):
    journal = Journal(path, "f")
    for one in parts:
        journal.append(*one)
    journal.close()
    return path


def kept(path, keys="abc", fingerprint="f"):
    journal = Journal(path, fingerprint)
    try:
        return list(journal.kept(keys))
    finally:
        journal.close()


def test_answers_and_coverage_come_back_exactly(path):
    answers = [
        [Score(ODD, True), Score((-2.0,), None)], [Generation((5, 0, 2**31 - 1), "stop")], [Score((), False)],
    ]  # fmt: skip
    [(found, *rest)] = kept(written(path, part("abc", *answers)))
    assert (found, rest) == (dict(enumerate(answers)), [COVERAGE, 1.25])
    assert [math.copysign(1, x) for x in found[0][0].logprobs] == [-1.0] * len(ODD)


def test_the_most_probable_tokens_come_back_as_the_arrays_they_were(path):
    rng = np.random.default_rng(0)
    tops = [
        TopK(rng.integers(0, 9, (n, k), np.int32), rng.normal(size=(n, k)).astype(np.float32))
        for n, k in ((3, 4), (1, 2))
    ]
    scores = [[Score((-1.0,) * len(top.ids), None, top)] for top in tops]
    [(found, *_)] = kept(written(path, part("abc", scores[0], [Score((-1.0,), True)], scores[1])))
    for top, [score] in zip(tops, [found[0], found[2]], strict=True):
        np.testing.assert_array_equal(score.top.ids, top.ids, strict=True)
        np.testing.assert_array_equal(score.top.logprobs, top.logprobs, strict=True)
    assert found[1][0].top is None


def test_a_new_journal_has_nothing(path):
    assert kept(path) == []
    assert kept(path) == []


@pytest.mark.parametrize("lost", [1, 5, 60])
def test_a_cut_record_is_dropped_and_the_next_follows_what_was_whole(path, lost):
    written(path, part("a"), part("b"))
    os.truncate(path, path.stat().st_size - lost)
    assert [set(found) for found, *_ in kept(path)] == [{0}]
    written(path, part("b"))
    assert [set(found) for found, *_ in kept(path)] == [{0}, {1}]


def test_a_damaged_record_is_dropped(path):
    data = bytearray(written(path, part("a"), part("b")).read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    assert [set(found) for found, *_ in kept(path)] == [{0}]


@pytest.mark.parametrize("content", [None, b"", b"no journal at all", b"\xff" * 40])
def test_another_arms_journal_or_none_at_all_is_replaced(path, content):
    written(path, part())
    if content is not None:
        path.write_bytes(content)
    assert kept(path, fingerprint="g") == []
    assert kept(path) == []  # gone for good


def test_an_answer_that_was_computed_twice_is_given_out_twice(path):
    written(path, part("ab"), part("d"), part("ab"))
    journal = Journal(path, "f")
    assert [[set(found) for found, *_ in journal.kept("ab")] for _ in range(3)] == [[{0, 1}], [{0, 1}], []]


def test_a_larger_call_takes_what_an_earlier_one_had_and_counts_it_once(path):
    journal = Journal(written(path, part("ca"), part("e")), "f")
    first = list(journal.kept("xay"))
    assert [(set(found), coverage, took) for found, coverage, took in first] == [({1}, COVERAGE, 1.25)]
    assert [(set(found), coverage, took) for found, coverage, took in journal.kept("bc")] == [({1}, Coverage(), 0.0)]


def test_a_journal_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PrerequisiteError, match=r"cannot keep answers in .*journal: File exists; free some space"):
        Journal(tmp_path / "file" / "journal", "f")


def test_a_disk_that_fills_up_loses_no_answer_that_was_kept(disk):
    small = disk(256)
    path = small.folder / "answers.journal"
    rng = np.random.default_rng(0)
    journal = Journal(path, "f")
    journal.append(*part("a"))
    small.fill(8)
    with pytest.raises(PrerequisiteError, match=r"cannot keep answers in .*: No space left on device; free some space"):
        journal.append(*part("b", [Score(tuple(rng.normal(size=9000).tolist()), True)]))
    journal.close()
    small.free()
    assert [set(found) for found, *_ in kept(path)] == [{0}]
    written(path, part("b"))
    assert [set(found) for found, *_ in kept(path)] == [{0}, {1}]


def test_the_digest_sees_ids_settings_and_wishes():
    one, two = {"input_ids": [1, 2], "n": 1}, {"input_ids": [1], "n": 2}
    calls = [(one, 0), (two, 0), (one, 1), ({**one, "n": 2}, 0), ({**one, "input_ids": [2, 1]}, 0)]
    assert len({digest(*call) for call in calls}) == len(calls)
    assert digest({"n": 1, "input_ids": [1, 2]}, 0) == digest(one, 0)


def test_changed_weights_have_another_key(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"1")
    before = weights_key(str(tmp_path), None)
    assert weights_key(str(tmp_path), None) == before
    os.utime(weights, ns=(1, 1))
    assert weights_key(str(tmp_path), None) != before
    assert weights_key("hub/name", "a") != weights_key("hub/name", "b")
