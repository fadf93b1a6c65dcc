from dataclasses import replace

import numpy as np
import pytest

from sage_eval.engine.topk import TextWindow, TopK
from sage_eval.errors import DataError
from sage_eval.store import topk


def window(task="wiki", doc_id=0, start=0, size=4, seed=0):
    rng = np.random.default_rng([seed, doc_id, start])
    ids = np.stack([rng.permutation(50)[:3] for _ in range(size)]).astype(np.int32)
    logprobs = -np.sort(rng.uniform(1, 5, (size, 3))).astype(np.float32)
    scores = -rng.uniform(1, 5, size).astype(np.float32)
    return TextWindow(task, doc_id, start, 1, f"{task}{doc_id}-{start}", ids[:, 0], scores, TopK(ids, logprobs))


WINDOWS = [window(), window(start=4, size=2), window(doc_id=1, size=3), window("prose", 0, 0, 5)]


@pytest.fixture
def lists(tmp_path):
    """`lists(windows)`: what is read after writing them."""

    def made(windows, name="baseline"):
        topk.write(tmp_path / f"{name}.npz", windows)
        return topk.read(tmp_path / f"{name}.npz", name)

    return made


def test_pairs_are_found_whatever_the_order_of_the_windows(lists):
    other = [replace(w, logprobs=w.logprobs - 1) for w in reversed(WINDOWS)]
    tasks = topk.pair(lists(WINDOWS), lists(other, "candidate"))
    wiki = tasks["wiki"]
    assert wiki.doc_ids.tolist() == [0] * 6 + [1] * 3
    assert wiki.context.tolist() == [1, 2, 3, 4, 1, 2, 1, 2, 3]
    base, cand = wiki.target_logprobs
    assert np.array_equal(base, np.concatenate([w.logprobs for w in WINDOWS[:3]]))
    assert np.array_equal(cand, base - 1)
    assert all(np.array_equal(array, np.concatenate([w.top.ids for w in WINDOWS[:3]])) for array in wiki.ids)
    assert all(np.array_equal(a, np.concatenate([w.top.logprobs for w in WINDOWS[:3]])) for a in wiki.logprobs)
    assert tasks["prose"].doc_ids.size == 5


@pytest.mark.parametrize("swapped", [False, True])
def test_a_window_of_one_arm_only_is_an_error_that_names_its_task(lists, swapped):
    pair = [lists(WINDOWS), lists(WINDOWS[:3], "candidate")]
    with pytest.raises(DataError, match=r"^prose: arms .* did not score the same windows: 1 are in one only"):
        topk.pair(*(reversed(pair) if swapped else pair))


def test_a_window_that_is_there_twice_is_an_error(lists):
    with pytest.raises(DataError, match="cut short or damaged"):
        lists([*WINDOWS, WINDOWS[0]])


def test_other_tokens_are_an_error_that_names_their_task(lists):
    other = [*WINDOWS[:2], replace(WINDOWS[2], prompt="other"), WINDOWS[3]]
    with pytest.raises(DataError, match=r"^wiki, document 1: arms baseline and candidate were given different tokens"):
        topk.pair(lists(WINDOWS), lists(other, "candidate"))


def test_an_arm_without_windows_removes_what_an_earlier_one_left(lists, tmp_path):
    lists(WINDOWS)
    assert lists([]) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["cut", "flipped", "text"])
def test_a_damaged_file_is_a_data_error(lists, tmp_path, damage):
    lists([window(doc_id=i, size=40) for i in range(20)])
    path = tmp_path / "baseline.npz"
    data = bytearray(path.read_bytes())
    data[-2000] ^= 1
    path.write_bytes({"cut": data[: len(data) // 2], "flipped": bytes(data), "text": b"{}"}[damage])
    with pytest.raises(DataError, match=r"baseline\.npz is cut short or damaged"):
        topk.read(path, "baseline")


def test_a_newer_file_is_refused(lists, tmp_path, monkeypatch):
    monkeypatch.setattr(topk, "SCHEMA_VERSION", 2)
    topk.write(tmp_path / "a.npz", WINDOWS)
    monkeypatch.undo()
    with pytest.raises(DataError, match="schema_version 2; this sage-eval reads 1"):
        topk.read(tmp_path / "a.npz", "a")
