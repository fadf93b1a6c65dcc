import runpy
from pathlib import Path
from typing import Any

import pytest

from sage_eval.data import DATA_ENV, tasks_dir
from sage_eval.data.mmlu import CATEGORIES, SUBJECTS
from tests.data.folders import REAL, needs_real
from tests.tasks.lms import HashLM, evaluate


def test_the_yaml_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    folder = tasks_dir() / "mmlu"
    runpy.run_path(str(folder / "generate.py"))["write"](tmp_path)
    committed = {path.name: path.read_text() for path in folder.glob("*.yaml")}
    assert committed == {path.name: path.read_text() for path in tmp_path.glob("*.yaml")}
    assert len(committed) == 57 + 5


@pytest.fixture
def both(small_data: Path, load: Any, built_in: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return load("sage_mmlu"), built_in("mmlu/default", "mmlu")


def test_groups_and_members_are_lm_evals(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    ours, theirs = both
    expected = {
        f"sage_{name}": [f"sage_{child}" for child in children] for name, children in theirs["group_map"].items()
    }
    assert {name: sorted(children) for name, children in ours["group_map"].items()} == {
        name: sorted(children) for name, children in expected.items()
    }
    assert ours["group_map"]["sage_mmlu"] == expected["sage_mmlu"], "the order of the table"
    for name, group in theirs["groups"].items():
        mine = ours["groups"][f"sage_{name}"]
        assert (mine.alias, mine.aggregate_metric_list, mine.version) == (
            group.alias,
            group.aggregate_metric_list,
            group.version,
        )


def test_a_task_differs_from_lm_evals_in_its_name_and_its_five_shots_only(
    both: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    ours, theirs = both
    assert len(theirs["tasks"]) == 57
    for name, task in theirs["tasks"].items():
        mine, its = ours["tasks"][f"sage_{name}"].dump_config(), task.dump_config()
        assert mine.pop("num_fewshot") == 5
        for config in (mine, its):
            config["fewshot_config"] = {k: v for k, v in config["fewshot_config"].items() if k != "doc_to_text"}
        differing = {key for key in mine.keys() | its.keys() if mine.get(key) != its.get(key)}
        assert differing <= {"task", "metadata", "doc_to_text"}  # a function with the same result, see below


def test_five_shot_prompts_and_scores_are_lm_evals(both: tuple[dict[str, Any], dict[str, Any]]) -> None:
    ours, theirs = both
    for task in theirs["tasks"].values():
        task.set_config(key="num_fewshot", value=5)
    mine, its = HashLM(), HashLM()
    results, expected = evaluate(ours, mine), evaluate(theirs, its)
    assert sorted(mine.requests) == sorted(its.requests)
    assert len(mine.requests) == 57 * 2 * 4
    assert mine.requests[0][0].count("\nAnswer:") == 6
    for name in ("mmlu", "mmlu_stem", "mmlu_anatomy"):
        for key in ("acc,none", "acc_stderr,none"):
            assert results["results"][f"sage_{name}"][key] == expected["results"][name][key]


def test_a_limit_of_the_command_line_does_not_change_the_shots(small_data: Path, load: Any) -> None:
    lm = HashLM()
    evaluate(load("sage_mmlu_anatomy"), lm, limit=1)
    assert len(lm.requests) == 4
    assert lm.requests[0][0].startswith(
        "The following are multiple choice questions (with answers) about anatomy.\n\nWhat is 0"
    )


@needs_real
@pytest.mark.parametrize("category", CATEGORIES)
def test_real_prompts_are_lm_evals(category: str, load: Any, built_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_ENV, str(REAL))
    subject = next(name for name, its in SUBJECTS.items() if its == category)
    (mine,) = load(f"sage_mmlu_{subject}")["tasks"].values()
    (its,) = built_in("mmlu/default", f"mmlu_{subject}")["tasks"].values()
    for document in list(its.eval_docs)[:20]:
        assert mine.fewshot_context(document, 5) == its.fewshot_context(document, 5)
    assert len(mine.eval_docs) == len(its.eval_docs) >= 100
