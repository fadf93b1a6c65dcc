"""How long a comparison would take, by what was measured before."""

import json

import pytest

from sage_eval.config import RunConfig
from sage_eval.runs import manifest
from sage_eval.runs.plan import measured_rate

GPU = {"name": "NVIDIA H100"}


@pytest.fixture
def kept(tmp_path):
    """`kept(host, devices)`: a model, and the options of a run beside one that served 400 tokens a second there."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    options = RunConfig(model=str(model), output=tmp_path / "runs" / "next")

    def keep(host, devices):
        arm = tmp_path / "runs" / "earlier" / "arms" / "baseline"
        arm.mkdir(parents=True)
        spec = {"model_hash": manifest.describe_model(str(model), model)["sha256"]}
        engine = {"coverage": {"prompt_tokens": 700, "generated_tokens": 10}}
        record = {"spec": spec, "engine": engine, "seconds": {"evaluate": 2.0}}
        (arm / "arm.json").write_text(json.dumps(record))
        (arm.parents[1] / "manifest.json").write_text(json.dumps({"host": host, "devices": devices}))
        return options, model

    return keep


def test_a_run_of_this_model_on_such_a_machine_tells_the_rate(kept):
    rate, source = measured_rate(*kept(manifest.host(), []), [])
    # 700 prompt tokens, and 10 generated ones that count ten times, in 2 s.
    assert rate == 400
    assert source.endswith("earlier")


def test_so_does_one_on_such_a_gpu_whatever_the_host(kept):
    assert measured_rate(*kept({"cores": 1}, [GPU, GPU]), [GPU])[0] == 400


@pytest.mark.parametrize(
    ("host", "devices", "here"),
    [(None, [GPU], []), (None, [], [GPU]), (None, [GPU], [{"name": "NVIDIA A100"}]), ({"cores": 1000}, [], [])],
)
def test_one_on_another_machine_does_not(kept, host, devices, here):
    assert measured_rate(*kept(host or manifest.host(), devices), here) is None


def test_half_a_run_is_passed_over(kept, tmp_path):
    options, model = kept(manifest.host(), [])
    (tmp_path / "runs" / "earlier" / "manifest.json").unlink()
    assert measured_rate(options, model, []) is None
