"""What the figures decide by themselves: limits, axes, colours."""

import re
from pathlib import Path

import pytest

from sage_eval.config import VERDICTS
from sage_eval.render.figures import DARK, DARK_INK, INK, LIGHT, file_name, log_label
from sage_eval.report.figures import dose, draw, forest
from sage_eval.store import load


@pytest.fixture(scope="module")
def figures(full_run):
    return {svg.name: svg for section in draw(full_run).values() for svg in section}


def test_the_detection_limit_is_the_first_dose_that_a_control_would_be_seen_at(full_run):
    found = {curve.task.task: curve for curve in dose.curves(full_run.comparison)}
    assert set(found) == {"tiny_mmlu", "tiny_text", "tiny_needle"}
    for curve in found.values():
        assert sorted(curve.doses) == [4, 16, 64]
        seen = [dose.dose for dose in curve.task.doses if dose.seen]
        assert curve.limit == curve.task.detection_limit == seen[0]


def test_a_run_without_stress_has_no_curve(calibrated_run):
    assert dose.curves(load(calibrated_run).comparison) == []


def test_a_control_far_out_is_named_instead_of_squashing_the_rest(figures, full_run):
    texts = re.findall(r">([^<>]*)</text>", figures["differences"].text)
    control = {
        task.task: task.scale * task.controls["control"].difference.value for task in full_run.comparison.verdict.tasks
    }
    assert f"{control['tiny_text']:+.3g} ▸" in texts
    assert f"◂ {control['tiny_needle']:+.3g}".replace("-", "−") in texts


@pytest.mark.parametrize(("missing", "word"), [(["floor", "control"], "no verdict"), (["floor"], "inconclusive")])
def test_without_calibration_the_figure_gives_no_verdict_either(full_run, missing, word):
    run = load(full_run.folder)
    verdict = full_run.comparison.verdict
    tasks = [task.model_copy(update={"verdict": "inconclusive"}) for task in verdict.tasks]
    bare = verdict.model_copy(update={"tasks": tasks, "missing": missing})
    vars(run)["comparison"] = full_run.comparison.model_copy(update={"verdict": bare})
    [drawing] = forest.figures(run)
    assert {ax.get_title(loc="right") for ax in drawing.figure.axes} == {word}


def test_every_verdict_has_its_gravity():
    assert sorted(forest.GRAVITY) == sorted(VERDICTS)


def test_of_very_many_tasks_the_gravest_are_drawn(full_run):
    run = load(full_run.folder)
    verdict = full_run.comparison.verdict
    [first, *_] = verdict.tasks
    calm = [first.model_copy(update={"verdict": "equivalent"})] * 20
    grave = [first.model_copy(update={"verdict": "worse"})]
    many = verdict.model_copy(update={"tasks": [*calm, *grave]})
    vars(run)["comparison"] = full_run.comparison.model_copy(update={"verdict": many})
    [drawing] = forest.figures(run)
    assert len(drawing.figure.axes) == forest.MOST
    assert drawing.figure.axes[0].get_title(loc="right") == "worse"
    assert "12 gravest of 21 tasks" in drawing.description


def test_bins_of_the_histogram_are_shares_of_all_positions(figures, full_run):
    candidate = next(entry for entry in full_run.fidelity.tasks if entry.arm == "candidate")
    assert f"candidate {candidate.statistics.kld.value:.3g} nats" in figures["kld-tiny-text"].description
    assert "All positions of repeat are below the axis." in figures["kld-tiny-text"].description


@pytest.mark.parametrize(("colours", "ink"), [(LIGHT, INK), (DARK, DARK_INK)])
def test_colours_that_carry_text_have_enough_contrast(colours, ink):
    for name in ("muted", "baseline", "candidate", "floor", "control", "stress"):
        assert contrast(colours[name], colours["paper"]) >= 4.5, name
    assert contrast(ink, colours["paper"]) >= 7


def test_figures_follow_the_page(figures):
    for svg in figures.values():
        colours = set(re.findall(r"(?<!,)#[0-9a-f]{6}", svg.text))
        assert colours == set(), svg.name
        assert "currentColor" in svg.text


@pytest.mark.parametrize(("value", "text"), [(1e-3, "10⁻³"), (1.0, "10⁰"), (100, "10²"), (2e-3, ""), (0, "")])
def test_powers_of_ten(value, text):
    assert log_label(value) == text


def test_file_names_are_safe():
    assert file_name("retrieval", "../x y/Z", "<b>") == "retrieval-x-y-z-b"


def contrast(one, other):
    """WCAG 2.1's contrast ratio of two hex colours."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_long_names_are_broken_into_lines_that_have_room():
    [drawing] = forest.figures(load(Path(__file__).parents[2] / "results" / "qwen2.5-coder-0.5b-h200"))
    for ax in drawing.figure.axes:
        names = [label.get_text() for label in ax.get_yticklabels()]
        assert max(len(line) for name in names for line in name.split("\n")) <= 26
        lines = sum(name.count("\n") + 1 for name in names)
        assert abs(ax.get_ylim()[0] - ax.get_ylim()[1]) == pytest.approx(lines + 0.2)
