"""Weights that are not whole are refused before an engine starts."""

import json

import pytest
import torch
from safetensors.torch import save_file

from sage_eval.engine.checks import check_weights
from sage_eval.errors import DataError


@pytest.fixture
def folder(tmp_path):
    """Two shards and their index."""
    for number in (1, 2):
        save_file({f"w{number}": torch.zeros(4, 8)}, tmp_path / f"model-{number}.safetensors")
    index = {"weight_map": {f"w{number}": f"model-{number}.safetensors" for number in (1, 2)}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


def test_whole_weights_pass(folder):
    check_weights(folder)


def test_a_missing_shard_is_named(folder):
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(DataError, match=r"lacks 1 of its weight files \(model-2.safetensors\)"):
        check_weights(folder)


@pytest.mark.parametrize("kept", [0, 4, 40, -1])
def test_a_shard_that_is_cut_short_is_named(folder, kept):
    shard = folder / "model-2.safetensors"
    shard.write_bytes(shard.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"model-2\.safetensors"):
        check_weights(folder)


def test_a_shard_with_more_at_its_end_is_named(folder):
    shard = folder / "model-1.safetensors"
    shard.write_bytes(shard.read_bytes() + b"x")
    with pytest.raises(DataError, match=r"model-1\.safetensors is no safetensors file"):
        check_weights(folder)


def test_an_index_that_is_none_is_named(folder):
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(DataError, match="no index"):
        check_weights(folder)


def test_a_folder_without_weights_is_refused_and_another_format_left_to_sglang(tmp_path):
    with pytest.raises(DataError, match="no weights"):
        check_weights(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    check_weights(tmp_path)


def test_the_bundled_model_is_whole(reference_model):
    check_weights(reference_model)
