import random

import pytest

from sage_eval.compare.tasks import load_tasks

CODE = """
import random
import datasets
import numpy

def items(**_):
    return {"test": datasets.Dataset.from_list([{"n": random.random(), "m": numpy.random.rand()} for _ in range(4)])}

def shuffled(rows):
    return rows.map(lambda row: {"order": random.sample("ABCD", 4)})
"""
TASK = """
task: {}
custom_dataset: !function drawn.items
process_docs: !function drawn.shuffled
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{n}}}} {{{{m}}}} {{{{order}}}}"
doc_to_choice: order
doc_to_target: 0
"""


@pytest.fixture
def drawn(tmp_path):
    """Two tasks that make their items, and the order of their choices, with the global generators."""
    (tmp_path / "drawn.py").write_text(CODE)
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(TASK.format(name))

    def items(*names, seed=0):
        random.seed()
        return {
            name: list(task.eval_docs)
            for name, task in load_tasks([str(tmp_path / f"{n}.yaml") for n in names], "", {}, seed=seed)[1].items()
        }

    return items


def test_every_load_draws_the_same_items_whatever_drew_before(drawn):
    together = drawn("one", "two")
    assert together == drawn("two", "one")
    assert together["two"] == drawn("two")["two"]


def test_tasks_and_seeds_draw_items_of_their_own(drawn):
    first, other = drawn("one", "two"), drawn("one", "two", seed=1)
    numbers = [row["n"] for table in (*first.values(), *other.values()) for row in table]
    assert len(set(numbers)) == len(numbers)


def test_a_task_that_shuffles_keeps_its_items(tmp_path, drawn):
    drawn("one")
    _, tasks = load_tasks([str(tmp_path / "one.yaml")], "", {})
    assert list(tasks["one"].eval_docs) == list(tasks["one"].eval_docs)
