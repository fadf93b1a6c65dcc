"""Verdicts on planted data, from the configuration through the real runner to the exit code."""

import json
import re
import shutil

import pytest

from sage_eval.cli import main
from sage_eval.compare import run as runner
from sage_eval.store import load
from tests.compare.values import compared, in_this_process, rendered

BLUNT = "equivalent (blunt)"
"""The one control of these runs loses 0.3 of everything, far more than any margin."""
MARGIN = {"accuracy": 0.05, "retrieval": 0.06}
LM = "tests.compare.lms:PlantedLM"
CALIBRATION = ("repeat", "reorder", "exact", "control", "control-unsmoothed", "floor=other")


@pytest.fixture(scope="module")
def planted(tiny, tmp_path_factory):
    """`planted(**settings)`: a finished run; its arms are run in this process, which saves loading lm-eval for each."""

    def run(**values):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runner, "_job", in_this_process)
            settings = {"lm": LM, "margin": MARGIN, "output": tmp_path_factory.mktemp("planted") / "run", **values}
            return runner.compare(tiny(**settings), argv=["compare", "MODEL"])

    return run


@pytest.fixture(scope="module")
def equal(planted):
    """A candidate that equals the baseline but for a little noise, with arms of every kind."""
    return planted(arms=CALIBRATION, model_args={"noise": 0.002})


def verdicts(run):
    return {task.task: task.verdict for task in run.comparison.verdict.tasks}


def rejudge(run, arms=None, **settings):
    """The same answers with other margins or fewer arms."""
    chosen = {name: arm for name, arm in run.arms.items() if arms is None or name in arms}
    return compared(run.manifest, chosen, {}, **{"margin": MARGIN, **settings}).verdict


def test_equal_arms_with_a_control_that_is_seen_are_equivalent(equal):
    found = equal.comparison.verdict
    assert verdicts(equal) == dict.fromkeys(("tiny_choice", "tiny_perplexity", "tiny_needle"), BLUNT)
    assert (found.verdict, found.missing) == (BLUNT, [])
    assert all(task.sharpness > 2 for task in found.tasks)
    assert all(task.controls["control"].seen for task in found.tasks)
    # Without smoothing this model loses nothing: a control that shows nothing is said to.
    assert not any(task.controls["control-unsmoothed"].seen for task in found.tasks)


def test_roles_are_stored_with_the_arms(equal):
    roles = {name: arm.record.spec.role for name, arm in load(equal.folder).arms.items()}
    assert roles == {
        "baseline": "baseline", "candidate": "candidate", "repeat": "floor", "reorder": "floor", "exact": "floor",
        "control": "control", "control-unsmoothed": "control", "floor-other": "floor",
    }  # fmt: skip
    assert {pair.candidate: pair.role for pair in equal.comparison.pairs} == {
        name: role for name, role in roles.items() if name != "baseline"
    }


def test_the_interval_is_that_of_two_one_sided_tests_and_lies_in_the_margin(equal):
    for task in equal.comparison.verdict.tasks:
        assert task.interval.level == pytest.approx(0.9)
        assert -task.margin < task.interval.low < task.interval.high < task.margin
        assert task.p_equivalence < 0.05


def test_one_metric_a_task_is_judged(equal):
    [task] = [task for task in equal.comparison.verdict.tasks if task.task == "tiny_perplexity"]
    assert (task.metric, task.margin, task.unit) == ("word_perplexity", 0.005, "nats")


def test_a_floor_of_zero_is_said_to_be_zero_and_the_widest_one_is_shown(equal):
    choice, text, _ = equal.comparison.verdict.tasks
    assert all(floor.identical for floor in choice.floors.values())
    assert {name for name, floor in text.floors.items() if floor.identical} == {"repeat", "reorder"}
    assert text.floor == max(("exact", "floor-other"), key=lambda name: abs(text.floors[name].difference.value))
    floor = text.floors[text.floor]
    assert floor.excess.value == pytest.approx(text.interval.value - floor.difference.value)
    # Judged like a candidate: two arms that are equal are found to be.
    assert {floor.verdict for task in (choice, text) for floor in task.floors.values()} == {BLUNT}
    # Paired with the floor arm, item by item: another spread than the candidate's own.
    assert floor.excess.se not in (0, text.interval.se)
    assert "| exactly 0 (repeat) |" in rendered(equal)


def test_the_report_begins_with_the_verdict(equal):
    text = rendered(equal)
    _, heading, headline, terms, title, *_ = text.split("\n\n")
    assert heading == "## Verdict"
    assert headline == "**Verdict: equivalent (blunt) in every task: tiny_choice, tiny_perplexity, tiny_needle.**"
    assert terms.startswith("*Arm*: ")
    assert title == "**Verdict by task**"
    assert "| tiny_choice | equivalent (blunt) | acc | +0 pp | [−3.27, +3.27] | ±5 pp |" in text
    assert text.index("**Verdict by task**") < text.index("**sage_attn against plain, fidelity mode**")
    assert "**control (sage_attn) against plain, fidelity mode**" in text


def test_a_terminal_shows_the_verdict_too(equal, capsys):
    from rich.console import Console

    from sage_eval.render.sections import terminal
    from sage_eval.report.comparison import brief_sections

    terminal(brief_sections(equal), Console(width=200))
    shown = capsys.readouterr().out
    assert shown.startswith("Verdict: equivalent (blunt) in every task")
    assert "exactly 0 (repeat)" in shown
    assert "**" not in shown


def test_a_planted_loss_is_worse(planted):
    run = planted(arms=("control",), model_args={"loss": 0.05, "noise": 0.002}, tasks=TASK("perplexity"))
    [task] = run.comparison.verdict.tasks
    assert (task.verdict, run.comparison.verdict.verdict) == ("worse", "worse")
    assert task.interval.value == pytest.approx(0.05, abs=0.001)
    assert task.p < 0.001


def TASK(name):
    return (f"tests/compare/tasks/tiny_{name}.yaml",)


@pytest.fixture(scope="module")
def unclear(planted):
    """A loss of a few answers among 80."""
    return planted(arms=("repeat", "control"), model_args={"loss": 0.05}, tasks=TASK("choice"))


def test_a_few_lost_answers_are_inconclusive_and_say_how_many_items_would_settle_it(unclear):
    [task] = unclear.comparison.verdict.tasks
    assert task.verdict == "inconclusive"
    assert task.items > 80
    assert f"about {task.items:,} items would settle it" in rendered(unclear)


def test_a_control_that_is_not_seen_establishes_nothing(planted):
    run = planted(arms=("repeat", "control"), model_args={"damage": 0.0}, tasks=TASK("choice"))
    [task] = run.comparison.verdict.tasks
    assert task.verdict == "not established"
    assert not task.controls["control"].seen
    assert "the damaged arm control was not seen: +0 pp" in task.reason
    text = rendered(run)
    assert "| **none of 1** |" in text
    assert "| +0 ± 0 pp (p = 1) |" in text


def test_a_floor_arm_that_differs_is_pointed_out(equal):
    # The control's answers, said to be a floor's.
    control = equal.arms["control"]
    spec = control.record.spec.model_copy(update={"name": "bad-floor", "role": "floor"})
    bad = type(control)(control.folder, control.record.model_copy(update={"spec": spec}))
    verdict = compared(equal.manifest, {**equal.arms, "bad-floor": bad}, {}, MARGIN).verdict
    assert {task.floors["bad-floor"].verdict for task in verdict.tasks} == {"worse"}
    text = rendered(_with(equal, verdict))
    assert ": bad-floor, which should equal the baseline, is itself worse" in text


def test_without_calibration_one_line_names_the_arms_that_are_needed(equal):
    bare = rejudge(equal, arms=("baseline", "candidate"))
    assert (bare.verdict, bare.missing) == ("not established", ["floor", "control"])
    text = rendered(_with(equal, bare))
    assert text.count("not established") == 0
    assert text.count("`--calibrate`") == 1


@pytest.mark.parametrize(("kept", "missing", "advice"), [("repeat", "control", "No control ran"),
                                                         ("control", "floor", "No floor arm ran")])  # fmt: skip
def test_the_kind_of_arm_that_is_missing_is_named(equal, kept, missing, advice):
    verdict = rejudge(equal, arms=("baseline", "candidate", kept))
    assert verdict.missing == [missing]
    assert advice in rendered(_with(equal, verdict))


def _with(run, verdict):
    """The run as reports see it, with another verdict."""
    return run.judged(run.comparison.model_copy(update={"verdict": verdict}), run.fidelity)


def test_a_baseline_at_chance_cannot_be_judged(run):
    choice, *_ = run.comparison.verdict.tasks
    assert (choice.task, choice.verdict) == ("tiny_choice", "not established")
    assert "the baseline is at chance" in choice.reason


def test_too_few_items_are_not_called_an_unseen_control(planted):
    run = planted(arms=("control",), limit=20, tasks=TASK("perplexity"))
    assert verdicts(run) == {"tiny_perplexity": "inconclusive"}
    text = rendered(run)
    assert "| too few items |" in text
    assert "| +0.3 nats |" in text
    assert re.search(r"about 3[0-4] items", text)  # texts of unequal length are worth a little fewer


def test_low_coverage_in_fidelity_mode_cannot_be_judged(equal):
    arms = dict(equal.arms)
    record = arms["candidate"].record
    coverage = {"tokens": {"prefill/sage_attn": 900.0, "prefill/triton-exact": 100.0}, "counted": True}
    record = record.model_copy(update={"engine": {"coverage": coverage}})
    arms["candidate"] = type(arms["candidate"])(arms["candidate"].folder, record)
    reasons = {task.reason for task in compared(equal.manifest, arms, {}, MARGIN).verdict.tasks}
    assert reasons == {"coverage is 90.00 %, fidelity mode wants 100 %"}
    throughput = equal.manifest.model_copy(update={"mode": "throughput"})
    assert compared(throughput, arms, {}, MARGIN).verdict.verdict == BLUNT


@pytest.mark.parametrize(
    ("margin", "found"),
    [
        ({"tiny_choice": 0.04, "acc": 0.5, "accuracy": 0.6}, 0.04),
        ({"acc": 0.5, "accuracy": 0.6}, 0.5),
        ({"accuracy": 0.6}, 0.6),
        ({}, 0.005),
    ],
)
def test_a_margin_is_taken_from_the_task_its_metric_or_its_kind(equal, margin, found):
    assert rejudge(equal, margin=margin).tasks[0].margin == found


def test_a_margin_of_a_metric_makes_it_the_judged_one(equal):
    _, text, _ = rejudge(equal, margin={"bits_per_byte": 0.01}).tasks
    assert (text.metric, text.margin, text.unit) == ("bits_per_byte", 0.01, "bits")


def test_a_group_is_judged_instead_of_its_members(equal):
    from tests.compare.test_comparison import grouped

    arms = {name: equal.arms[name] for name in ("baseline", "candidate", "repeat", "control")}
    split = grouped(type(equal)(equal.folder, equal.manifest, arms))
    assert [task.task for task in compared(equal.manifest, split, {}, MARGIN).verdict.tasks] == ["parts"]


def test_a_task_that_cannot_be_compared_is_not_hidden_behind_the_others(equal):
    arms = dict(equal.arms)
    results = dict(arms["baseline"].results)
    results["results"] = {**results["results"], "tiny_needle": {"acc,none": 0.123}}
    base = type(arms["baseline"])(arms["baseline"].folder, arms["baseline"].record)
    base.__dict__["results"] = results
    verdict = compared(equal.manifest, {**arms, "baseline": base}, {}, MARGIN).verdict
    assert {task.task: task.verdict for task in verdict.tasks}["tiny_needle"] == "not established"
    assert (verdict.verdict, verdict.reason) == ("not established", "not established in 1 of 3 tasks: tiny_needle")


def call(run, *more):
    """`sage-eval compare` on a finished run: no arm is started."""
    arguments = run.manifest.arguments
    settings = ["--tasks", ",".join(arguments["tasks"]), "--no-calibrate", "--lm", LM]
    settings += ["--arms", ",".join(arguments["arms"])]
    extra = ["--model-args", json.dumps(arguments["model_args"]), "--output", str(run.folder)]
    return main(["compare", arguments["model"], *settings, *extra, *more])


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ([], 0),
        (["--fail-on", "worse"], 0),
        (["--fail-on", "worse,inconclusive"], 1),
        (["--fail-on", "inconclusive", "--margin", "acc=0.2"], 0),
        (["--fail-on", "not-established"], 0),
    ],
)
def test_fail_on_decides_the_exit_code(unclear, tmp_path, capsys, more, code):
    copy = load(shutil.copytree(unclear.folder, tmp_path / "run"))
    assert call(copy, "--json", *more) == code
    out, err = capsys.readouterr()
    assert err.count("finished earlier, kept") == 4
    verdict = json.loads(out)["verdict"]
    assert verdict["verdict"] == ("equivalent" if "acc=0.2" in more else "inconclusive")


def test_calibration_arms_are_added_to_a_finished_comparison(tiny, run, tmp_path, monkeypatch):
    started = []

    def job(spec, *rest):
        started.append(spec.name)
        return in_this_process(spec, *rest)

    monkeypatch.setattr(runner, "_job", job)
    folder = shutil.copytree(run.folder, tmp_path / "run")
    calibrated = runner.compare(tiny(output=folder, arms=("repeat", "control")), argv=["compare"])
    assert started == ["repeat", "control"]
    assert calibrated.comparison.verdict.missing == []
    again = runner.compare(tiny(output=folder), argv=["compare"])
    assert list(again.arms) == ["baseline", "candidate"]
    assert again.comparison.verdict.missing == ["floor", "control"]
