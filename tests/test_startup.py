"""The start-up file and the hook, each in an interpreter of its own, with lm-eval as it is installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sage_eval.data import DATA_ENV
from sage_eval.lm_eval_hook import _tasks_of, only_ours, run_lm_eval
from tests.data.folders import write_small

ROOT = Path(__file__).resolve().parents[1]

FIND = """
from lm_eval.api.registry import get_model, model_registry
from lm_eval.tasks import TaskManager
import lm_eval.models, lm_eval.tasks._index as index
index.TaskIndex._iter_yaml_files = staticmethod(
    lambda root, walk=index.TaskIndex._iter_yaml_files: walk(root) if "lm_eval" not in str(root) else iter(())
)
print("sglang-sage" in model_registry, "sage_mmlu" in TaskManager().all_tasks)
"""
"""Looks for model and tasks as lm-eval's command does, sparing the scan of its own 14,000 files."""


def python(code: str, *flags: str, site: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a new interpreter that knows the checkout and, with `site`, that folder's .pth files."""
    if site is not None:
        code = f"import site; site.addsitedir({str(site)!r})\n{code}"
    return subprocess.run(
        [sys.executable, *flags, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **environment},
    )


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site folder with the start-up file as the wheel has it."""
    (tmp_path / "sage_eval_startup.pth").write_text((ROOT / "sage_eval_startup.pth").read_text())
    return tmp_path


def test_an_interpreter_that_does_not_use_lm_eval_gets_next_to_nothing() -> None:
    # -S: nothing of the environment's own start-up files is loaded before.
    code = """
import sys
before = set(sys.modules)
import sage_eval.startup
print(sorted(set(sys.modules) - before))
"""
    run = python(code, "-S")
    assert run.stdout.strip() == "['sage_eval', 'sage_eval.startup']", run.stderr


def test_the_startup_file_makes_model_and_tasks_known(site: Path) -> None:
    run = python(FIND, "-S", site=site, PYTHONPATH=os.pathsep.join([str(ROOT), *filter(None, sys.path)]))
    assert run.stdout.strip() == "True True", run.stderr


def test_without_the_startup_file_lm_eval_knows_neither() -> None:
    # Shows that the test above can fail. -S: the start-up file of the environment is not read.
    run = python(FIND, "-S", PYTHONPATH=os.pathsep.join([str(ROOT), *filter(None, sys.path)]))
    assert run.stdout.strip() == "False False", run.stderr


def test_importing_lm_eval_alone_imports_neither_torch_nor_the_model(site: Path) -> None:
    run = python(
        "import sys, lm_eval.tasks; print([m for m in ('torch', 'sglang', 'model_adapters') if m in sys.modules])",
        site=site,
    )
    assert run.stdout.strip() == "[]", run.stderr


def test_a_broken_hook_is_one_warning_and_lm_eval_works(site: Path) -> None:
    code = """
import sys
sys.modules.pop("lm_eval", None)
sys.modules["sage_eval.lm_eval_hook"] = None
import lm_eval, lm_eval.tasks
print(lm_eval.tasks.TaskManager.__name__)
"""
    run = python(code, site=site)
    assert run.stdout.strip() == "TaskManager"
    assert [line for line in run.stderr.splitlines() if line.startswith("sage-eval:")] != []
    assert "Traceback" not in run.stderr


def test_missing_task_files_are_one_warning_and_lm_eval_works(tmp_path: Path) -> None:
    code = """
import sage_eval, sage_eval.lm_eval_hook as hook
hook.install()
sage_eval.__file__ = "/nowhere/sage_eval/__init__.py"
import lm_eval.tasks._index as index
index.TaskIndex._iter_yaml_files = staticmethod(lambda root: iter(()))
from lm_eval.tasks import TaskManager
print(TaskManager().all_tasks)
"""
    run = python(code)
    assert run.stdout.strip() == "[]"
    assert sum("task definitions are missing" in line for line in run.stderr.splitlines()) == 1


def test_installing_twice_patches_once() -> None:
    from lm_eval.tasks import TaskManager

    from sage_eval.lm_eval_hook import install

    install()
    first = TaskManager.__init__
    install()
    assert TaskManager.__init__ is first


def test_a_closed_list_of_tasks_stays_closed(tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    from sage_eval.lm_eval_hook import install

    install()
    assert TaskManager(include_path=str(tmp_path), include_defaults=False).all_tasks == []


@pytest.mark.slow
def test_lm_evals_own_names_run_from_the_local_folder(tmp_path: Path) -> None:
    code = """
import sage_eval.lm_eval_hook as hook
hook.install()
import sage_eval.data.folder
sage_eval.data.folder.pins = dict
import lm_eval, pathlib
from lm_eval.tasks import TaskManager
own = pathlib.Path(lm_eval.__file__).parent / "tasks"
manager = TaskManager(include_path=[own / "mmlu" / "default", own / "wikitext"], include_defaults=False)
results = lm_eval.simple_evaluate(model="dummy", tasks=["wikitext", "mmlu"], task_manager=manager, num_fewshot=5)
print(len(results["results"]), results["n-samples"]["wikitext"], results["configs"]["mmlu_anatomy"]["dataset_path"])
"""
    folder = write_small(tmp_path / "data")
    run = python(code, **{DATA_ENV: str(folder)})
    assert run.stdout.strip().endswith("63 {'original': 40, 'effective': 40} cais/mmlu"), run.stderr[-2000:]


@pytest.mark.parametrize(
    ("names", "ours"),
    [(["sage_mmlu"], True), (["sage_*"], True), (["sage_mmlu", "wikitext"], False), (["*"], False), ([], False)],
)
def test_lm_evals_tasks_are_left_out_only_where_no_name_can_mean_them(names: list[str], ours: bool) -> None:
    assert only_ours(names) is ours


@pytest.mark.parametrize(
    "argv",
    [
        ["--tasks", "sage_a,wikitext", "--limit", "8"],
        ["--tasks=sage_a,wikitext"],
        ["run", "--limit=8", "--tasks", "sage_a", "wikitext"],
        ["-t", "sage_a", "wikitext", "--model", "sage_c"],
    ],
)
def test_task_names_are_read_from_every_form_of_the_arguments(argv: list[str]) -> None:
    assert _tasks_of(argv) == ["sage_a", "wikitext"]


@pytest.mark.parametrize("tasks", [["--tasks", "sage_mmlu,sage_retrieval"], ["--tasks=sage_mmlu"]])
def test_the_wrapper_command_finds_our_tasks(tasks: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    arguments = list(sys.argv)
    assert run_lm_eval(["validate", *tasks]) == 0
    assert sys.argv == arguments
    assert "valid" in capfd.readouterr().out.lower()


def test_the_wrapper_command_passes_lm_evals_exit_code_on(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_lm_eval(["validate", "--tasks", "sage_nothing"]) != 0
    assert run_lm_eval(["run", "--no-such-flag"]) == 2
    capfd.readouterr()


@pytest.mark.slow
def test_the_literal_command_finds_ours_beside_its_own(site: Path, tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['lm_eval', 'validate', '--tasks', 'sage_mmlu,mmlu,sage_retrieval']\n"
    run = python(code + "from lm_eval.__main__ import cli_evaluate; cli_evaluate()", site=site)
    assert run.returncode == 0, run.stderr[-2000:]
