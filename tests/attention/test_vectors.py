"""Files of shifts and balances, each rank's part of them, and bits that chunks and batches do not change."""

import pytest
import torch
from safetensors.torch import save_file

from sage_eval.attention import numerics
from sage_eval.attention.cpu_backend import SageTorchAttnBackend
from sage_eval.attention.settings import AttentionSettings
from sage_eval.attention.vectors import heads_of_rank, load
from sage_eval.errors import DataError, PrerequisiteError, UsageError

LENGTH, HEADS, KV_HEADS, DIM = 700, 4, 2, 64


@pytest.fixture
def file(tmp_path):
    def write(layers=2, shape=(KV_HEADS, DIM), dtype=torch.float32):
        path = tmp_path / "shift.safetensors"
        save_file({f"layers.{i}": torch.full(shape, i + 1.0, dtype=dtype) for i in range(layers)}, path)
        return path

    return write


def test_the_file_is_read_layer_by_layer(file):
    assert [shift[0, 0].item() for shift in load("shift", file(), 2, KV_HEADS, DIM)] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ({"layers": 3}, "3 tensors"),
        ({"layers": 1}, "layers.0 to layers.1"),
        ({"shape": (KV_HEADS, 128)}, r"\[2, 128\]"),
        ({"shape": (1, DIM)}, r"\[1, 64\]"),
        ({"dtype": torch.bfloat16}, "bfloat16"),
    ],
)
def test_a_file_of_another_model_is_refused(file, written, hint):
    with pytest.raises(DataError, match=hint):
        load("shift", file(**written), 2, KV_HEADS, DIM)


def test_a_shift_that_is_not_finite_is_refused(tmp_path):
    save_file({"layers.0": torch.full((KV_HEADS, DIM), torch.nan)}, tmp_path / "shift")
    with pytest.raises(DataError, match="not finite"):
        load("shift", tmp_path / "shift", 1, KV_HEADS, DIM)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.0, -1.0])
def test_a_balance_that_is_not_finite_and_positive_is_refused(tmp_path, value):
    save_file({"balance.0": torch.full((KV_HEADS, DIM), value)}, tmp_path / "balance")
    with pytest.raises(DataError, match="not finite and positive"):
        load("balance", tmp_path / "balance", 1, KV_HEADS, DIM)


def test_a_file_of_the_other_setting_is_refused(file):
    with pytest.raises(DataError, match=r"balance\.0 to balance\.1: it is another model's or another setting's"):
        load("balance", file(), 2, KV_HEADS, DIM)


def test_a_missing_or_broken_file_says_how_to_make_one(tmp_path):
    with pytest.raises(PrerequisiteError, match="sage-eval calibrate MODEL"):
        load("shift", tmp_path / "none", 1, KV_HEADS, DIM)
    (tmp_path / "text").write_text("not tensors")
    with pytest.raises(DataError, match="sage-eval calibrate MODEL"):
        load("shift", tmp_path / "text", 1, KV_HEADS, DIM)


@pytest.mark.parametrize(
    ("size", "heads"), [(1, [[0, 1, 2, 3]]), (2, [[0, 1], [2, 3]]), (8, [[0], [0], [1], [1], [2], [2], [3], [3]])]
)
def test_a_rank_takes_its_own_heads(size, heads):
    shift = torch.arange(4.0).repeat_interleave(DIM).view(4, DIM)
    assert [heads_of_rank(shift, rank, size)[:, 0].int().tolist() for rank in range(size)] == heads


@pytest.mark.parametrize("values", [{"smooth_k": "static"}, {"shift": "somewhere"}])
def test_static_and_its_file_belong_together(values):
    with pytest.raises(UsageError, match="smooth_k=static"):
        AttentionSettings.from_mapping(values)


def test_static_without_a_file_names_the_command():
    with pytest.raises(UsageError, match="sage-eval calibrate MODEL"):
        AttentionSettings.from_mapping({"smooth_k": "static"})


@pytest.fixture(scope="module")
def tensors():
    torch.manual_seed(0)
    q, k, v = (torch.randn(LENGTH, heads, DIM).bfloat16() for heads in (HEADS, KV_HEADS, KV_HEADS))
    return q, k + 4 * torch.randn(1, KV_HEADS, DIM).bfloat16(), v


def backend(**settings):
    made = object.__new__(SageTorchAttnBackend)
    made.settings = AttentionSettings(**settings)
    generator = torch.Generator().manual_seed(1)
    made.shifts = {i: 4 * torch.randn(KV_HEADS, DIM, generator=generator) for i in range(2)}
    made.balances = {i: torch.rand(KV_HEADS, DIM, generator=generator) + 0.5 for i in range(2)}
    return made


def extend(made, tensors, pieces):
    """Output of the CPU backend for (prefix, end) pieces of one sequence, taken as the sequences of one batch."""
    q, k, v = tensors
    table = torch.arange(LENGTH).repeat(len(pieces), 1)
    prefixes, ends = (torch.tensor(column) for column in zip(*pieces, strict=True))
    rows = torch.cat([q[a:b] for a, b in pieces])
    return made._run_sdpa_forward_extend(
        rows, torch.empty_like(rows), k, v, table, torch.arange(len(pieces)), ends, prefixes, ends - prefixes,
        scaling=DIM**-0.5,
    )  # fmt: skip


@pytest.mark.parametrize("variant", ["int8-fp16", "int4-fp16"])
def test_chunks_prefixes_and_batches_give_the_same_bits(tensors, variant):
    made = backend(variant=variant, smooth_k="static", shift="unread")
    whole = extend(made, tensors, [(0, LENGTH)])
    assert torch.equal(extend(made, tensors, [(0, 256), (256, 640), (640, LENGTH)]), whole)
    shuffled = extend(made, tensors, [(384, LENGTH), (0, 384)])
    assert torch.equal(torch.cat([shuffled[LENGTH - 384 :], shuffled[: LENGTH - 384]]), whole)


def test_the_sequences_own_mean_does_not_promise_that(tensors):
    made = backend()
    whole = extend(made, tensors, [(0, LENGTH)])
    assert not torch.equal(extend(made, tensors, [(0, 256), (256, LENGTH)]), whole)


def test_each_layer_has_its_own_shift_and_balance(tensors):
    made = backend(smooth_k="static", shift="unread")
    for layer in range(2):
        made.layer_id = layer
        got = extend(made, tensors, [(0, 200)])
        q, k, v = (x[:200] for x in tensors)
        shift, balance = made.shifts[layer], made.balances[layer]
        want = numerics.attention(q, k, v, scale=DIM**-0.5, smooth_k="static", k_shift=shift, balance=balance)
        assert torch.equal(got, want)
        made.shifts[1 - layer].zero_()
        made.balances[1 - layer].fill_(1)
