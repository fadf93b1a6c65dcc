"""What each calibration arm is told."""

import shutil
from typing import get_args

import pytest
from safetensors.torch import load_file, save_file

from sage_eval.compare import calibration, stressed
from sage_eval.compare.run import output_folder
from sage_eval.compare.spec import arms
from sage_eval.config import CALIBRATE, VERDICTS, RunConfig, from_sources
from sage_eval.errors import DataError, PrerequisiteError, UsageError
from sage_eval.statistics.verdict import Kind
from sage_eval.store.provenance import describe_model

HOPPER, ADA = [{"compute_capability": "9.0"}], [{"compute_capability": "8.9"}]


def specs(config, devices=()):
    return {spec.name: spec for spec in arms(config, "hash", {}, devices)}


def changed(spec, other):
    return dict(spec.model_args.items() - other.model_args.items())


def test_a_repeated_baseline_is_told_the_same(tiny):
    found = specs(tiny(arms=("repeat",)))
    assert found["repeat"].fingerprint() == found["baseline"].fingerprint()
    assert found["repeat"].role == "floor"


@pytest.mark.parametrize(("asked", "running"), [(None, 8), (64, 8), (6, 3), (1, 1)])
def test_a_reordered_baseline_differs_in_order_and_concurrency_only(tiny, asked, running):
    given = {} if asked is None else {"max_running_requests": asked}
    found = specs(tiny(arms=("reorder",), model_args=given))
    difference = changed(found["reorder"], found["baseline"])
    assert {"max_running_requests": running, **difference} == {"order_seed": 1, "max_running_requests": running}


def test_controls_differ_from_the_candidate_in_the_damaged_setting_only(tiny):
    found = specs(tiny(arms=("control", "control-unsmoothed"), candidate="sage_attn+fa3"))
    assert changed(found["control"], found["candidate"]) == {"variant": "int4-fp16"}
    assert changed(found["control-unsmoothed"], found["candidate"]) == {"smooth_k": "off"}


def test_the_control_of_another_candidate_is_sage_attn(tiny):
    control = specs(tiny(arms=("control",), candidate="fa3"))["control"]
    assert (control.backend, control.model_args["variant"]) == ("sage_attn", "int4-fp16")


def test_the_package_has_no_int4_so_its_control_uses_another_kernel(tiny):
    control = specs(tiny(arms=("control",), attention={"kernel": "package", "strict": True}))["control"]
    assert (control.model_args["kernel"], control.model_args["strict"]) == ("auto", False)


def test_without_a_gpu_the_exact_arm_is_the_same_code_unquantised(tiny):
    exact = specs(tiny(arms=("exact",)))["exact"]
    assert (exact.backend, exact.model_args["variant"], exact.role) == ("sage_attn", "exact", "floor")


@pytest.mark.parametrize(
    ("baseline", "devices", "backend"),
    [
        (None, HOPPER, "triton"),
        ("fa3", HOPPER, "triton"),
        ("triton", HOPPER, "fa3"),
        ("triton", ADA, "flashinfer"),
        ("flashinfer", ADA, "triton"),
        ("fa3+triton", HOPPER, "triton"),
    ],
)
def test_on_a_gpu_the_exact_arm_is_another_kernel_than_the_baselines(tiny, monkeypatch, baseline, devices, backend):
    monkeypatch.setattr(calibration, "find_spec", lambda _name: "there")
    assert specs(tiny(arms=("exact",), baseline=baseline), devices)["exact"].backend == backend


def test_an_exact_kernel_that_is_not_installed_is_not_asked_for(tiny, monkeypatch):
    monkeypatch.setattr(calibration, "find_spec", lambda _name: None)
    exact = specs(tiny(arms=("exact",)), ADA)["exact"]
    assert (exact.backend, exact.model_args["variant"]) == ("sage_attn", "exact")


def test_arms_that_calibrate_are_there_unless_they_are_left_out():
    settings = {"model": "m", "arms": "reorder,exact"}
    assert from_sources(settings).calibration == (*CALIBRATE, "reorder")
    assert from_sources(settings | {"calibrate": False}).calibration == ("reorder", "exact")


def test_a_floor_can_be_named(tiny):
    floor = specs(tiny(arms=("floor=flashinfer",)), HOPPER)["floor-flashinfer"]
    assert (floor.backend, floor.role) == ("flashinfer", "floor")
    assert "variant" not in floor.model_args


def test_calibration_arms_do_not_change_the_default_folder(tiny):
    plain, calibrated = (tiny(arms=names) for names in ((), CALIBRATE))
    folders = [output_folder(config, list(specs(config).values())) for config in (plain, calibrated)]
    assert folders[0] == folders[1]


def test_arm_names_come_as_lists_and_once():
    assert from_sources({"model": "m", "arms": ["repeat,exact", "repeat"]}, {}).arms == ("repeat", "exact")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"arms": ["contrl"]}, "unknown arm 'contrl'; did you mean control.*floor=BACKEND"),
        ({"arms": ["floor=../x"]}, "unknown arm"),
        ({"fail_on": ["bad"]}, "unknown verdict 'bad'; valid: equivalent, .*loss-found"),
        ({"margin": ["acc=0"]}, r"margin\.acc=0: .*greater than 0"),
    ],
)
def test_bad_settings_of_the_verdict_are_usage_errors(flags, message):
    with pytest.raises(UsageError, match=message):
        from_sources({"model": "m", **flags}, {})


def test_the_verdicts_of_the_settings_are_those_of_the_statistics():
    assert get_args(Kind) == VERDICTS


@pytest.mark.parametrize(
    ("values", "expected"),
    [({}, True), ({"candidate": "fa3"}, False), ({"lm": "hf"}, False), ({"model": "/nowhere"}, False)],
)
def test_stress_is_there_by_default_where_a_checkpoint_can_be_made(reference_model, values, expected):
    config = RunConfig(**{"model": str(reference_model), **values})
    names = [arm.name for arm in calibration.calibration(config, [])]
    assert names == ["repeat", "exact", "control", *(["stress-4", "stress-16"] if expected else [])]


def test_a_large_model_is_not_copied_unasked(reference_model, monkeypatch):
    monkeypatch.setattr(calibration, "LARGEST", 1_000)
    plain, asked = (RunConfig(model=str(reference_model), arms=arms) for arms in ((), ("stress=16",)))
    assert "stress-16" not in [arm.name for arm in calibration.calibration(plain, [])]
    assert "stress-16" in [arm.name for arm in calibration.calibration(asked, [])]


@pytest.mark.parametrize("error", [DataError("no dose will do"), PrerequisiteError("no text, so no dose will do")])
def test_stress_that_cannot_be_made_is_left_out_unless_asked_for(error, reference_model, tmp_path, monkeypatch):
    def refuse(*_):
        raise error

    monkeypatch.setattr(stressed, "_apart", refuse)
    plain, asked = (RunConfig(model=str(reference_model), arms=arms) for arms in ((), ("stress=16",)))
    made = stressed.with_checkpoints(plain, arms(plain, "hash", {}), tmp_path)
    assert [spec.name for spec in made] == ["baseline", "candidate", "repeat", "exact", "control"]
    with pytest.raises(type(error), match="no dose will do"):
        stressed.with_checkpoints(asked, arms(asked, "hash", {}), tmp_path)


def test_a_candidate_may_have_a_checkpoint_of_its_own(reference_model, tiny):
    own = f"sage_attn:pretrained={reference_model}"
    found = specs(tiny(candidate=("sage_attn", own), arms=("control",)))
    assert list(found) == ["baseline", "sage_attn", "sage_attn-pretrained=reference_model", "control"]
    balanced = found["sage_attn-pretrained=reference_model"]
    assert changed(balanced, found["sage_attn"]) == {"pretrained": str(reference_model)}
    assert balanced.model_hash == describe_model("m", reference_model)["sha256"]
    assert {found[name].model_hash for name in ("baseline", "sage_attn", "control")} == {"hash"}
    [_, alone, control] = specs(tiny(candidate=own, arms=("control",))).values()
    assert changed(control, alone) == {"variant": "int4-fp16"}


def test_candidates_have_short_names(tiny):
    asked = ("sage_attn:variant=int8-fp8,smooth_k=off", "sage_attn:balance=made/here/balance.safetensors")
    assert list(specs(tiny(candidate=asked))) == ["baseline", "sage_attn-int8-fp8-smooth_k=off", "sage_attn-balance"]


def test_another_function_is_no_checkpoint_of_a_candidates_own(reference_model, tmp_path):
    other = shutil.copytree(reference_model, tmp_path / "other")
    stressed._prove("candidate", str(reference_model), str(other))
    [first, *_] = sorted(other.glob("*.safetensors"))
    weights = load_file(first)
    name = next(name for name in weights if "q_proj" in name)
    weights[name][0] *= 2
    save_file(weights, first, {"format": "pt"})
    with pytest.raises(DataError, match=r"arm candidate: .*other is not the function that .*reference_model is"):
        stressed._prove("candidate", str(reference_model), str(other))


def test_a_candidates_own_checkpoint_is_proven_before_it_runs(reference_model, tmp_path, monkeypatch):
    monkeypatch.setattr(stressed, "_apart", lambda task, *arguments: task(*arguments))
    other = shutil.copytree(reference_model, tmp_path / "other")
    config = RunConfig(model=str(reference_model), candidate=f"sage_attn:pretrained={other}", calibrate=False)
    stressed.with_checkpoints(config, arms(config, "hash", {}), tmp_path)
    [first, *_] = sorted(other.glob("*.safetensors"))
    save_file({name: 2 * weight for name, weight in load_file(first).items()}, first, {"format": "pt"})
    with pytest.raises(DataError, match=r"arm candidate: .*other is not the function"):
        stressed.with_checkpoints(config, arms(config, "hash", {}), tmp_path)
