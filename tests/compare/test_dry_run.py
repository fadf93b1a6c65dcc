"""How long a comparison would take, by what was measured before."""

import json
import shutil

import numpy as np
import pytest

from sage_eval.compare.plan import Plan, TaskPlan, _groups, measured_floors, measured_rate, plan
from sage_eval.config import RunConfig
from sage_eval.statistics.paired import paired_difference
from sage_eval.store import provenance
from sage_eval.store.comparison import Floor
from sage_eval.store.manifest import registration

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
        spec = {"model_hash": provenance.describe_model(str(model), model)["sha256"]}
        engine = {"coverage": {"prompt_tokens": 700, "generated_tokens": 10}}
        record = {"spec": spec, "engine": engine, "seconds": {"evaluate": 2.0}}
        (arm / "arm.json").write_text(json.dumps(record))
        (arm.parents[1] / "manifest.json").write_text(json.dumps({"host": host, "devices": devices}))
        return options, model

    return keep


def test_a_run_of_this_model_on_such_a_machine_tells_the_rate(kept):
    rate, source = measured_rate(*kept(provenance.host(), []), [])
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
    assert measured_rate(*kept(host or provenance.host(), devices), here) is None


def test_half_a_run_is_passed_over(kept, tmp_path):
    options, model = kept(provenance.host(), [])
    (tmp_path / "runs" / "earlier" / "manifest.json").unlink()
    assert measured_rate(options, model, []) is None


def test_a_group_has_a_line_before_its_members():
    def task(name, items):
        return TaskPlan(
            task=name, items=items, requests=1, engine_requests=1, prompt_tokens=9, longest=items, new_tokens=0
        )

    members = {"inner": ["a"], "outer": ["inner", "b"]}
    tasks = [task("a", 2), task("b", 3), task("alone", 4)]
    made = Plan(tasks=tasks, groups=_groups(members), arms=2, tokens_per_second=1, rate_from="", seconds=0)
    rows = [
        [cell.strip() for cell in line.split("|")[1:]] for line in made.text().splitlines() if line.startswith("| ")
    ]
    assert [(row[0], row[1], row[5]) for row in rows[-6:]] == [
        ("outer (2 tasks)", "5", "3"), ("inner (1 tasks)", "2", "2"), ("a", "2", "2"), ("b", "3", "3"),
        ("alone", "4", "4"), ("total", "9", "4"),
    ]  # fmt: skip


def test_what_calibration_costs_is_said():
    arms = ["repeat", "exact", "control"]
    sizes = {"tasks": [], "arms": 5, "tokens_per_second": 1, "rate_from": "", "seconds": 6000}
    text = Plan(calibration=arms, by_default=arms, **sizes).text()
    assert "5 arms" in text
    costs = "repeat, exact, control calibrate the comparison and take about 60 min"
    assert f"{costs}; --no-calibrate leaves out all of them, and with them most verdicts" in text
    text = Plan(calibration=arms, by_default=arms[:2], **sizes).text()
    assert f"{costs}; --no-calibrate leaves out repeat, exact, and with them most verdicts" in text
    text = Plan(calibration=arms, **sizes).text()
    assert f"{costs}\n" in text
    assert "--no-calibrate" not in text


@pytest.mark.parametrize(
    ("options", "by_default"),
    [
        ({"calibrate": False, "arms": ("control", "reorder")}, []),
        ({"calibrate": True, "arms": ("control", "reorder")}, ["repeat", "exact"]),
    ],
)
def test_arms_that_were_named_are_not_there_by_default(tiny, options, by_default):
    found = plan(tiny(model="reference_model", **options))
    assert {"control", "reorder"} <= {*found.calibration}
    assert found.by_default == by_default


def test_a_plan_says_which_margin_its_items_can_settle():
    """GSM8K at 0.5 percentage points is hopeless; a text has no right answers."""
    numbers = {"engine_requests": 1, "prompt_tokens": 1, "longest": 1}
    gsm8k = TaskPlan(task="gsm8k", items=1_319, requests=1_319, new_tokens=1_319 * 256, **numbers)
    mmlu = TaskPlan(task="mmlu", items=14_042, requests=4 * 14_042, new_tokens=0, **numbers)
    text = TaskPlan(task="wikitext", items=62, requests=62, new_tokens=0, **numbers)
    assert gsm8k.smallest_margin == pytest.approx(0.014, abs=0.0005)
    assert mmlu.smallest_margin == pytest.approx(0.0025, abs=0.0001)
    assert text.smallest_margin is None
    made = Plan(tasks=[gsm8k, text], arms=2, tokens_per_second=1.0, rate_from="here", seconds=60.0)
    assert "±1.4 pp" in made.text()


def test_the_floor_of_an_earlier_run_says_what_equal_arms_differ_by(run, tiny, model, tmp_path):
    """Ten of 80 answers flipped there; 320 would settle half of that run's margin."""
    folder = tmp_path / "earlier"
    shutil.copytree(run.folder, folder)
    record = json.loads((folder / "comparison.json").read_text())
    base, cand = np.zeros(80), np.zeros(80)
    base[:5], cand[5:10] = 1, 1
    floor = Floor(
        difference=paired_difference(base, cand), identical=False, excess=paired_difference(base, cand),
        verdict="inconclusive",
    )  # fmt: skip
    [task] = [task for task in record["verdict"]["tasks"] if task["task"] == "tiny_choice"]
    task["floors"] = {"repeat": floor.model_dump(mode="json")}
    (folder / "comparison.json").write_text(json.dumps(record))
    config = tiny(output=tmp_path / "next")
    floors, source = measured_floors(config, model, provenance.devices())
    assert source == str(folder)
    assert floors.keys() == {"tiny_choice"}
    assert floors["tiny_choice"].variance == pytest.approx(11 / 80)
    sizes = {"requests": 4, "engine_requests": 1, "prompt_tokens": 1, "longest": 1, "new_tokens": 0}
    made = Plan(
        tasks=[TaskPlan(task="tiny_choice", items=320, **sizes)], arms=2, tokens_per_second=1.0, rate_from="here",
        seconds=60.0, floors=floors, floors_from=source,
    )  # fmt: skip
    assert "±6.1 pp" in made.text()
    assert f"they differ as the floor of {source} does" in made.text()


def test_margins_and_items_of_a_run_are_fixed_by_a_hash():
    given = {"tasks": ["mmlu"], "limit": 100, "seed": 1, "margin": {}}
    assert registration(given) == registration({**given, "output": "elsewhere"})
    assert len({registration(given | change) for change in ({}, {"limit": 200}, {"margin": {"acc": 0.01}})}) == 3
