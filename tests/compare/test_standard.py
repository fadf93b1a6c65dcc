"""The tasks that people evaluate long contexts and reasoning with, from files of their published form, offline."""

from pathlib import Path

import pytest

from sage_eval.compare.fetch import fetch
from sage_eval.compare.run import compare
from sage_eval.config import RunConfig
from sage_eval.data.manifest import Manifest
from tests.data import standard

TASKS = ("gsm8k/gsm8k", "gpqa/n_shot/gpqa_diamond_n_shot", "gpqa/generative/gpqa_main_generative_n_shot",
         "longbench2/detective", "mmlu_pro/mmlu_pro_computer_science")  # fmt: skip
RULER = ("ruler/niah_single_2", "ruler/qa_squad")
LENGTH = {"max_seq_lengths": [512]}


def files(*names):
    """Tasks by their files: for a name, lm-eval scans all of its own."""
    import lm_eval.tasks

    return tuple(str(Path(lm_eval.tasks.__file__).parent / f"{name}.yaml") for name in names)


@pytest.fixture(autouse=True, scope="module")
def offline():
    """Nothing outside this host is asked, by this process or an arm's."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
            patch.setenv(name, "http://127.0.0.1:9")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setenv("SAGE_EVAL_DATA", "")
        yield


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return standard.write_folder(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def prepared(published, tmp_path_factory):
    """A folder that has what these tasks load, and nothing that they do not."""
    folder = tmp_path_factory.mktemp("prepared") / "data"
    fetch(folder, files(*TASKS), source=published)
    return folder


def counts(tasks, folder, reference_model, output, **more):
    """Items by task of a comparison of the first six."""
    config = {
        "model": str(reference_model), "lm": "tests.compare.lms:HashLM", "tasks": files(*tasks), "data_dir": folder,
        "limit": 6, "output": output, **more,
    }  # fmt: skip
    run = compare(RunConfig(**config), argv=["compare"])
    return {row.task: row.n for pair in run.comparison.pairs for row in pair.tasks}


def test_a_prepared_folder_has_what_the_tasks_load(prepared):
    manifest = Manifest.read(prepared)
    assert sorted(manifest.sources) == [
        "Idavidrein/gpqa", "TIGER-Lab/MMLU-Pro", "openai/gsm8k", "recursal/longbench-v2",
    ]  # fmt: skip
    assert "hub/openai/gsm8k/main/test-00000-of-00001.parquet" in manifest.files


@pytest.mark.slow
def test_both_arms_are_asked_the_same_and_every_item_is_paired(prepared, reference_model, tmp_path):
    assert counts(TASKS, prepared, reference_model, tmp_path / "run") == {
        "gsm8k": 6, "gpqa_diamond_n_shot": 6, "gpqa_main_generative_n_shot": 6, "longbench2_detective": 3,
        "mmlu_pro_computer_science": 3,
    }  # fmt: skip


@pytest.mark.slow
def test_ruler_runs_from_what_its_own_loading_brought(published, reference_model, tmp_path):
    """RULER writes 500 texts a task while it is loaded, whatever the limit."""
    folder = tmp_path / "data"
    manifest = fetch(folder, files(*RULER), str(reference_model), LENGTH, source=published)
    assert f"web/{standard.SQUAD}" in manifest.files
    assert f"web/{standard.HOTPOT}" not in manifest.files, "no task asked for it"
    assert "nltk_data/tokenizers/punkt_tab/english/abbrev_types.txt" in manifest.files
    assert set(manifest.sources) == {"baber/paul_graham_essays"}
    assert counts(RULER, folder, reference_model, tmp_path / "run", task_args=LENGTH) == {
        "niah_single_2": 6, "ruler_qa_squad": 6,
    }  # fmt: skip
