"""`--until settled` through the real runner: what is asked at each look, where it stops, and how it goes on."""

import json
import shutil

import pytest

from sage_eval.compare import run as runner
from sage_eval.compare.looks import _first, shuffled
from sage_eval.compare.tasks import load_tasks
from sage_eval.config import RunConfig
from sage_eval.errors import UsageError
from sage_eval.store import load
from tests.compare.values import in_this_process, rendered

CHOICE, PERPLEXITY = (f"tests/compare/tasks/tiny_{name}.yaml" for name in ("choice", "perplexity"))


@pytest.fixture(scope="module")
def until(tiny, tmp_path_factory):
    """`until(**settings)`: a run that stops when it is settled, and the arms that were started for it."""

    def run(**values):
        started = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runner, "_job", lambda spec, *r: started.append(spec.name) or in_this_process(spec, *r))
            settings = {"lm": "tests.compare.lms:PlantedLM", "margin": {"accuracy": 0.05}, "until": "settled",
                        "output": tmp_path_factory.mktemp("until") / "run", **values}  # fmt: skip
            return runner.compare(tiny(**settings), argv=["compare", "MODEL"]), started

    return run


@pytest.fixture(scope="module")
def grave(until):
    """A loss of nine answers in ten, which half of the choices settle; the texts need all of theirs."""
    return until(tasks=(CHOICE, PERPLEXITY), model_args={"loss": 0.9})


def test_a_task_that_is_settled_gets_no_more_items(grave):
    run, started = grave
    assert [look.items["tiny_choice"] for look in run.looks.looks] == [8, 20, 40, 40]
    assert [look.items["tiny_perplexity"] for look in run.looks.looks] == [4, 10, 20, 40]
    assert run.looks.stopped == "settled"
    assert started == ["baseline", "candidate"] * 4
    assert {task.verdict for task in run.comparison.verdict.tasks} == {"worse"}


def test_the_items_of_a_look_are_those_before_and_more_in_a_random_order(grave):
    run, _ = grave
    chosen = [sample.doc_id for sample in run.arms["candidate"].samples if sample.task == "tiny_choice"]
    assert len(chosen) == 40
    assert chosen == sorted(chosen) != list(range(40))


def test_intervals_allow_for_the_looks(grave):
    run, _ = grave
    [row] = [row for row in run.comparison.pairs[0].tasks if row.task == "tiny_choice"]
    assert row.difference.looks == (0.1, 0.25, 0.5)
    assert row.difference.method == "Tango score, repeated"


def test_every_look_and_the_stop_are_in_the_folder_and_in_the_report(grave):
    run, _ = grave
    stored = load(run.folder).looks
    assert stored == run.looks
    assert [look.verdicts["tiny_choice"] for look in stored.looks] == ["inconclusive"] * 2 + ["worse"] * 2
    text = rendered(run)
    assert "Stopped at look 4 with 80 of 120 items (67 %): every task was settled" in text
    assert "Verdicts by look" in text


@pytest.mark.slow
def test_equal_arms_take_what_equivalence_needs(until):
    run, _ = until(tasks=(CHOICE,), arms=("control",), model_args={"damage": 0.5})
    assert run.comparison.verdict.verdict.startswith("equivalent")
    assert len(run.looks.looks) == 4


def test_a_run_that_was_interrupted_goes_on_at_its_look(grave, until, tmp_path):
    run, _ = grave
    folder = tmp_path / "run"
    shutil.copytree(run.folder, folder)
    record = json.loads((folder / "looks.json").read_text())
    record["looks"][-1] |= {"verdicts": {}, "open": []}
    record["stopped"] = None
    (folder / "looks.json").write_text(json.dumps(record))
    (folder / "arms" / "candidate" / "arm.json").unlink()
    again, started = until(tasks=(CHOICE, PERPLEXITY), model_args={"loss": 0.9}, output=folder)
    assert started == ["candidate"]
    assert again.looks == run.looks
    assert again.comparison.verdict == run.comparison.verdict


def test_a_finished_run_asks_nothing_again(grave, until):
    again, started = until(tasks=(CHOICE, PERPLEXITY), model_args={"loss": 0.9}, output=grave[0].folder)
    assert started == []
    assert again.comparison == grave[0].comparison


def test_other_items_are_refused(grave, until):
    with pytest.raises(UsageError, match="holds a comparison of other items: choose another --output, or --fresh"):
        until(tasks=(CHOICE, PERPLEXITY), model_args={"loss": 0.9}, output=grave[0].folder, limit=30)


def test_documents_stay_whole():
    class Task:
        eval_docs = tuple({"document": i // 4} for i in range(40))

        def get_config(self, _name):
            return {"sage_cell": ["document"]}

    order = shuffled("t", Task(), RunConfig(model="m"))
    assert sorted(map(tuple, order)) == [tuple(range(4 * i, 4 * i + 4)) for i in range(10)]
    assert order != sorted(order)
    assert order == shuffled("t", Task(), RunConfig(model="m"))
    assert order != shuffled("other", Task(), RunConfig(model="m"))
    assert len(_first(order, 6)) == 8


def test_a_limit_chooses_the_items_that_are_shuffled(model):
    _, tasks = load_tasks([CHOICE], str(model), {})
    order = shuffled("tiny_choice", tasks["tiny_choice"], RunConfig(model="m", limit=30))
    assert sorted(number for unit in order for number in unit) == list(range(30))
