import pytest

from sage_eval.attention.settings import AttentionSettings
from sage_eval.config import from_sources, nearest, parse_pairs
from sage_eval.errors import PrerequisiteError, UsageError


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_flags_win_over_environment_over_file_over_defaults(tmp_path):
    file = write(tmp_path, "model: file\nlimit: 1\nseed: 1\nmode: throughput\n")
    environ = {"SAGE_EVAL_LIMIT": "2", "SAGE_EVAL_SEED": "2"}
    config = from_sources({"limit": 3}, environ, file)
    assert (config.limit, config.seed, config.mode, config.candidate) == (3, 2, "throughput", "sage_attn")
    assert config.model == "file"


def test_absent_flags_do_not_hide_other_sources():
    config = from_sources({"model": "m", "limit": None}, {"SAGE_EVAL_LIMIT": "7"})
    assert config.limit == 7


def test_backend_settings_are_merged_name_by_name(tmp_path):
    file = write(tmp_path, "model: m\nattention: {variant: exact, smooth_k: static, decode: exact}\n")
    environ = {"SAGE_ATTN_SMOOTH_K": "off", "SAGE_ATTN_DECODE": "quantised"}
    config = from_sources({"attention": {"decode": "auto"}}, environ, file)
    assert config.attention == AttentionSettings(variant="exact", smooth_k="off", decode="auto")


def test_lists_and_pairs_are_read_alike_from_text_and_yaml(tmp_path):
    file = write(tmp_path, "model: m\ntasks: [a, b]\nmin: {a: 0.5}\nmodel_args: {tp_size: 2, quantization: null}\n")
    environ = {
        "SAGE_EVAL_TASKS": "a, b",
        "SAGE_EVAL_MIN": "a=0.5",
        "SAGE_EVAL_MODEL_ARGS": "tp_size=2,quantization=null",
    }
    assert from_sources({}, {}, file) == from_sources({"model": "m"}, environ)


def test_data_dir_has_the_name_that_the_tasks_read():
    assert str(from_sources({"model": "m"}, {"SAGE_EVAL_DATA": "data"}).data_dir) == "data"


def test_unknown_environment_variable_warns_with_the_nearest_name():
    with pytest.warns(UserWarning, match="SAGE_EVAL_LIMITS is not a setting.*SAGE_EVAL_LIMIT"):
        from_sources({"model": "m"}, {"SAGE_EVAL_LIMITS": "3"})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({}, "model is missing: .*SAGE_EVAL_MODEL"),
        ({"model": "m", "limit": 0}, "limit=0: .*greater than 0"),
        ({"model": "m", "mode": "fast"}, "mode='fast': .*'fidelity' or 'throughput'"),
        ({"model": "m", "tasks": ""}, "tasks=.*at least 1"),
        ({"model": "m", "min": ["sage_mmlu"]}, "min=.*'sage_mmlu' is not of the form name=value"),
        ({"model": "m", "min": ["sage_mmlu=high"]}, r"min\.sage_mmlu='high'"),
        ({"model": "m", "attention": {"variant": "int2"}}, "variant='int2': .*'int8-fp16'"),
        ({"model": "m", "attention": 3}, "attention=3: must be a mapping"),
    ],
)
def test_bad_values_name_the_setting_and_what_is_valid(flags, message):
    with pytest.raises(UsageError, match=message):
        from_sources(flags, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: m\nlimt: 3\n", "unknown setting limt; did you mean limit.*valid: model, candidate"),
        ("- a\n- b\n", "must be a mapping"),
        ("model: [", "not valid YAML"),
    ],
)
def test_bad_files_are_usage_errors(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        from_sources({}, {}, write(tmp_path, text))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(PrerequisiteError, match=r"cannot read the configuration .*none\.yaml"):
        from_sources({}, {}, tmp_path / "none.yaml")


def test_pairs_are_typed():
    assert parse_pairs(["a=1,b=true", "c=x", "d=1e-3", "e="]) == {"a": 1, "b": True, "c": "x", "d": 0.001, "e": None}


def test_lists_and_objects_among_pairs_keep_their_commas():
    assert parse_pairs("lengths=[512, 1024],depths=3") == {"lengths": [512, 1024], "depths": 3}
    assert parse_pairs(['{"a": [1, 2], "b": 3}', "c=4"]) == {"a": [1, 2], "b": 3, "c": 4}


def test_variables_of_the_tasks_are_no_typing_errors(recwarn):
    from_sources({"model": "m"}, {"SAGE_EVAL_RETRIEVAL": "{}"})
    assert not recwarn


def test_nothing_near_gives_no_hint():
    assert nearest("zzz", ["sage_mmlu"]) == ""
