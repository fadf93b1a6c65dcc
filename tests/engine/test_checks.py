import json
import shutil
import socket

import pytest
import torch
from safetensors.torch import save_file

from sage_eval.engine.checks import check_before_start, reserve
from sage_eval.engine.options import ArmOptions
from sage_eval.errors import DataError, PrerequisiteError, UsageError


def refuse(model, **arguments):
    check_before_start(ArmOptions.from_arguments(str(model), **arguments))


def test_an_unknown_backend_lists_the_known(reference_model):
    with pytest.raises(
        UsageError, match=r"'sage-attn' is unknown; did you mean sage_attn.*; known: .*torch_native.*triton"
    ):
        refuse(reference_model, attention_backend="sage-attn")


def test_a_folder_without_config_is_no_model(tmp_path):
    with pytest.raises(PrerequisiteError, match=r"no config.json"):
        refuse(tmp_path)


def test_a_missing_model_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PrerequisiteError, match="no model at") as caught:
        refuse(tmp_path / "nowhere")
    assert "\n" not in str(caught.value)


def test_a_head_size_without_kernel_is_refused_for_sage_alone(reference_model, tmp_path):
    config = json.loads((reference_model / "config.json").read_text()) | {"head_dim": 80}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="head_dim=80"):
        refuse(tmp_path, attention_backend="sage_attn")
    refuse(tmp_path, attention_backend="torch_native", load_format="dummy")


def test_missing_weights_are_refused_unless_none_are_read(reference_model, tmp_path):
    shutil.copy(reference_model / "config.json", tmp_path)
    refuse(tmp_path, load_format="dummy")
    with pytest.raises(DataError, match="no weights"):
        refuse(tmp_path)


def test_the_package_kernel_needs_the_package(reference_model, monkeypatch):
    monkeypatch.setattr("sage_eval.engine.checks.find_spec", lambda name: None)
    with pytest.raises(PrerequisiteError, match="pip install sageattention"):
        refuse(reference_model, attention_backend="sage_attn", kernel="package")


def test_a_shift_of_another_model_is_refused(reference_model, tmp_path):
    save_file({"layers.0": torch.zeros(1, 64)}, tmp_path / "other")
    with pytest.raises(DataError, match="sage-eval calibrate MODEL"):
        refuse(reference_model, attention_backend="sage_attn", smooth_k="static", shift=str(tmp_path / "other"))


def test_a_port_in_use_is_refused_and_a_free_one_is_not(reference_model):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(PrerequisiteError, match=f"nccl_port={port}: Address already in use"):
            refuse(reference_model, nccl_port=port)
    reserve(port).close()
