import re

import pytest

from sage_eval import suites
from sage_eval.attention.settings import AttentionSettings
from sage_eval.config import from_sources
from sage_eval.errors import PrerequisiteError, UsageError
from sage_eval.parsing import nearest, parse_pairs


@pytest.fixture
def environ(monkeypatch):
    """`environ(SAGE_EVAL_LIMIT="2")` sets variables."""
    return lambda **values: [monkeypatch.setenv(name, value) for name, value in values.items()]


def write(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def test_flags_win_over_environment_over_file_over_defaults(environ, tmp_path):
    file = write(tmp_path, "model: file\nlimit: 1\nseed: 1\nmode: throughput\n")
    environ(SAGE_EVAL_LIMIT="2", SAGE_EVAL_SEED="2")
    config = from_sources({"limit": 3}, file)
    assert (config.limit, config.seed, config.mode, config.candidate) == (3, 2, "throughput", ("sage_attn",))
    assert config.model == "file"


def test_absent_flags_do_not_hide_other_sources(environ):
    environ(SAGE_EVAL_LIMIT="7")
    config = from_sources({"model": "m", "limit": None})
    assert config.limit == 7


def test_backend_settings_are_merged_name_by_name(environ, tmp_path):
    file = write(tmp_path, "model: m\nattention: {variant: exact, smooth_k: static, decode: exact}\n")
    environ(SAGE_ATTN_SMOOTH_K="off", SAGE_ATTN_DECODE="quantised")
    config = from_sources({"attention": {"decode": "auto"}}, file)
    assert config.attention == AttentionSettings(variant="exact", smooth_k="off", decode="auto")


def test_lists_and_pairs_are_read_alike_from_text_and_yaml(environ, tmp_path):
    file = write(tmp_path, "model: m\ntasks: [a, b]\nmin: {a: 0.5}\nmodel_args: {tp_size: 2, quantization: null}\n")
    from_file = from_sources({}, file)
    environ(SAGE_EVAL_TASKS="a, b", SAGE_EVAL_MIN="a=0.5", SAGE_EVAL_MODEL_ARGS="tp_size=2,quantization=null")
    assert from_file == from_sources({"model": "m"})
    assert from_file.model_args == {"tp_size": 2, "quantization": None}


def test_data_dir_has_the_name_that_the_tasks_read(environ):
    environ(SAGE_EVAL_DATA="data")
    assert str(from_sources({"model": "m"}).data_dir) == "data"
    assert str(from_sources({"model": "m", "data_dir": "d"}).data_dir) == "d"


def test_unknown_environment_variable_warns_with_the_nearest_name(environ):
    environ(SAGE_EVAL_LIMITS="3")
    with pytest.warns(UserWarning, match="SAGE_EVAL_LIMITS is not a setting.*SAGE_EVAL_LIMIT"):
        from_sources({"model": "m"})


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
        ({"model": "m", "attention": {"smooth_k": "static"}}, "smooth_k=static needs the model's shifts"),
        ({"model": "m", "attention": {"smoth_k": "off"}}, "unknown setting attention.smoth_k; did you mean smooth_k"),
        ({"model": "m", "task_args": ["lengths=[abc"]}, r"task_args=.*'lengths=\[abc' cannot be read .*left open\?"),
        ({"model": "m", "model_args": ['{"a": ']}, "model_args=.*cannot be read"),
        ({"model": "m", "attention": 3}, "attention=3: .*valid dictionary"),
    ],
)
def test_bad_values_name_the_setting_and_what_is_valid(flags, message):
    with pytest.raises(UsageError, match=message):
        from_sources(flags)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: m\nlimt: 3\n", "unknown setting limt; did you mean limit.*valid: .*model, candidate"),
        ("- a\n- b\n", "must be a mapping"),
        ("model: m\ntasks: [a]\n\nlimit: 0\n", r"run\.yaml, line 4: limit=0: .*greater than 0"),
        ("model: m\nattention:\n  decode: auto\n  variant: int2\n", r"run\.yaml, line 4: attention\.variant='int2'"),
        ("model: m\nmargin:\n  a: 0.1\n  b: -1\n", r"run\.yaml, line 4: margin\.b=-1"),
        ("model: m\nlimt: 3\n", r"run\.yaml, line 2: unknown setting limt"),
        ("model: [", r"run\.yaml, line 1, is not valid YAML"),
        ("model: m\n  limit: 3\n", r"run\.yaml, line 2, is not valid YAML"),
    ],
)
def test_bad_files_are_usage_errors(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        from_sources({}, write(tmp_path, text))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(PrerequisiteError, match=r"cannot read the configuration .*none\.yaml"):
        from_sources({}, tmp_path / "none.yaml")


def test_pairs_are_typed():
    assert parse_pairs(["a=1,b=true", "c=x", "d=1e-3", "e="]) == {"a": 1, "b": True, "c": "x", "d": 0.001, "e": None}


def test_lists_and_objects_among_pairs_keep_their_commas():
    assert parse_pairs("lengths=[512, 1024],depths=3") == {"lengths": [512, 1024], "depths": 3}
    assert parse_pairs(['{"a": [1, 2], "b": 3}', "c=4"]) == {"a": [1, 2], "b": 3, "c": 4}


def test_variables_of_the_tasks_are_no_typing_errors(environ, recwarn):
    environ(SAGE_EVAL_RETRIEVAL="{}")
    from_sources({"model": "m"})
    assert not recwarn


def test_nothing_near_gives_no_hint():
    assert nearest("zzz", ["sage_mmlu"]) == ""


def test_a_wrong_flag_is_not_blamed_on_the_file(tmp_path):
    file = write(tmp_path, "model: m\nlimit: 3\nattention: {variant: exact}\n")
    for flags in ({"limit": 0}, {"attention": {"variant": "int2"}}):
        with pytest.raises(UsageError, match=r"^(limit=0|attention\.variant='int2')"):
            from_sources(flags, file)


PINNED = {
    "checklist": "2 (sha256 703652280199)",
    "long": "1 (sha256 4f0179c67ed5)",
    "quick": "1 (sha256 2e79c7215ede)",
    "standard": "1 (sha256 8483d6ea9cdf)",
}
"""A suite whose settings change is a new version: published runs name it by both."""


def test_suites_are_those_that_were_published():
    assert {name: suites.find(name).label.removeprefix(name + " ") for name in suites.names()} == PINNED


@pytest.mark.parametrize("name", PINNED)
def test_a_suite_is_a_configuration_with_margins_and_gates(name):
    config = from_sources({"model": "m", "suite": name})
    assert config.suite == suites.find(name).label
    assert config.margin
    assert {"worse", "loss found"} <= set(config.fail_on)
    assert "control" in config.calibration
    assert suites.find(name).about


def test_the_checklist_compares_servers_unless_it_is_told_otherwise():
    assert from_sources({"model": "m", "suite": "checklist"}).servers
    assert not from_sources({"model": "m", "suite": "checklist", "servers": False}).servers
    with pytest.raises(UsageError, match="servers are SGLang's, and lm=hf has none"):
        from_sources({"model": "m", "suite": "checklist", "lm": "hf"})


def test_flags_override_a_suite_and_pairs_are_merged(tmp_path, environ):
    file = write(tmp_path, "model: m\nsuite: standard\nseed: 5\n")
    environ(SAGE_EVAL_LIMIT="9")
    config = from_sources({"margin": ["gsm8k=0.02"]}, file)
    suite = suites.find("standard")
    assert config.margin == {**suite.settings["margin"], "gsm8k": 0.02}
    assert (config.tasks, config.seed, config.limit) == (tuple(suite.settings["tasks"]), 5, 9)
    assert config.suite == suite.label


def test_margins_of_a_suites_tasks_go_with_the_tasks_that_flags_leave_out():
    margin = suites.find("checklist").settings["margin"]
    config = from_sources({"model": "m", "suite": "checklist", "tasks": "sage_mmlu,sage_prose"})
    assert config.margin == {"sage_mmlu": margin["sage_mmlu"]}
    assert suites.find("checklist").settings["margin"] == margin


def test_a_suite_is_a_name_or_a_file(tmp_path):
    file = write(tmp_path, "version: 3\nabout: mine\ntasks: [gsm8k]\n")
    config = from_sources({"model": "m", "suite": str(file)})
    assert re.fullmatch(r"run 3 \(sha256 [0-9a-f]{12}\)", config.suite)
    with pytest.raises(UsageError, match=r"unknown suite 'standart'; did you mean standard.*valid: checklist, long"):
        from_sources({"model": "m", "suite": "standart"})
    with pytest.raises(PrerequisiteError, match=r"none\.yaml"):
        from_sources({"model": "m", "suite": "none.yaml"})


@pytest.mark.parametrize(("suite", "task", "items"), [
    ("quick", "sage_mmlu_stem", 3_153), ("standard", "sage_mmlu", 14_042), ("checklist", "sage_mmlu", 14_042),
])  # fmt: skip
def test_the_choices_of_a_suite_can_settle_its_margin(suite, task, items):
    from sage_eval.compare.plan import _FLIPS
    from sage_eval.statistics.equivalence import smallest_margin

    assert smallest_margin(items, _FLIPS["choice"]) <= suites.find(suite).settings["margin"][task]


@pytest.mark.parametrize(("suite", "task", "items"), [
    ("standard", "gsm8k", 1_319), ("checklist", "gsm8k", 1_319), ("quick", "sage_retrieval", 3 * 2 * 5 * 6),
    ("standard", "sage_retrieval", 3 * 3 * 5 * 15), ("long", "131072", 500),
])  # fmt: skip
def test_the_answers_of_a_suite_can_settle_its_margin(suite, task, items):
    from sage_eval.compare.plan import _FLIPS
    from sage_eval.statistics.equivalence import smallest_margin

    assert smallest_margin(items, _FLIPS["generated"]) <= suites.find(suite).settings["margin"][task]
