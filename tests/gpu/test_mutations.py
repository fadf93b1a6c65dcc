"""Deliberate mistakes put into the kernels turn their comparison with the definition red. Needs torch and Triton."""

import sys
from pathlib import Path

import pytest
import test_paged_kernels
import torch
from test_paged_kernels import Batch

from sage_eval.attention.kernels.tiles import Tile

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "attention"))
from mutations import MUTATIONS, ON_HOPPER, mutant

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


def seen(batch: Batch) -> bool:
    balance = torch.rand(2, 128, generator=torch.Generator().manual_seed(3)) * 2 + 0.25
    try:
        batch.check(balance=balance.cuda())
    except AssertionError:
        return True
    return False


def revealing_batch() -> Batch:
    """Unequal sequences, K with offsets that differ between them, V beyond fp16."""
    batch = Batch([0, 65], [67, 300], (8, 2))
    offset = 30 * batch.normal(1, 2, 128)
    batch.k += offset
    batch.k_cache += offset
    batch.k[:67] -= 2 * offset
    batch.v *= 1e5
    batch.v_cache *= 1e5
    return batch


@pytest.mark.parametrize("name", [None, *MUTATIONS])
def test_mistakes_in_prefill(name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paged = mutant(tmp_path, MUTATIONS[name] if name else None, "paged")
    monkeypatch.setattr(paged, "choose_tile", lambda *_: Tile(8, 2))
    monkeypatch.setattr(test_paged_kernels, "paged_attention", paged.paged_attention)
    assert seen(revealing_batch()) == (name is not None)


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability()[0] != 9, reason="these kernels are Hopper's"
)
@pytest.mark.parametrize("name", [None, *ON_HOPPER])
def test_mistakes_in_the_hopper_kernel(name: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paged = mutant(tmp_path, ON_HOPPER[name] if name else None, "paged")
    monkeypatch.setattr(test_paged_kernels, "paged_attention", paged.paged_attention)
    assert seen(revealing_batch()) == (name is not None)
