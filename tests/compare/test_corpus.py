"""Scores of all items at once: what of them is drawn, and a group's."""

from types import SimpleNamespace

import pytest

from sage_eval.compare import corpus


def mode(values):
    """The most frequent value's share."""
    return max(values.count(value) for value in values) / len(values)


def described(values, function=mode, **options):
    """What becomes of the metric `m`, aggregated by `function` over `values`, one per item, and its draws."""
    found = {"t": {"m": {"aggregation": "utils.mode", "kind": None}}}
    task = SimpleNamespace(aggregation=lambda: {"m": function})
    rows = [{"metrics": ["m"], "filter": "none", "doc_id": i, "m": value} for i, value in enumerate(values)]
    drawn = corpus.draw({"t": task}, {"t": rows}, found, **options)
    return found["t"]["m"], drawn.get("t", {}).get("m")


def test_what_depends_on_shares_alone_is_drawn():
    metric, drawn = described([1, 2, 2, 3] * 10)
    assert metric["kind"] == "resampled"
    assert (drawn["n"], len(drawn["draws"])) == (40, 200)


def fails(values):
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (len, "it depends on more than the shares of its items"),
        (lambda values: values[0], "it depends on more than the shares of its items"),
        (fails, "ZeroDivisionError"),
        (
            lambda values: float("nan") if len(set(values)) < 40 and len(values) == 40 else 1.0,
            "it is NaN for some draws",
        ),
    ],
)
def test_what_cannot_be_drawn_says_why(function, why):
    metric, drawn = described(list(range(40)), function)
    assert (metric["kind"], metric["reason"], drawn) == (None, f"it cannot be resampled: {why}", None)


def test_what_takes_more_than_its_part_of_the_time_is_not_begun():
    metric, _ = described([1, 2] * 20, seconds=1e-9)
    assert metric["reason"].startswith("it cannot be resampled: one draw takes")


@pytest.mark.parametrize(("sizes", "score"), [((30, 90), 0.75), ((30, 90), 0.5)])
def test_a_groups_score_is_the_mean_of_its_tasks_weighted_as_lm_eval_has_it(sizes, score):
    """By size, or each task alike; whichever gives lm-eval's own."""
    arm = {
        "results": {"g": {"m,none": score}, "a": {"m,none": 0.0}, "b": {"m,none": 1.0}},
        "resampled": {
            task: {"m": {"n": n, "items": "same", "draws": [value + 0.1 * (i % 3) for i in range(40)]}}
            for task, n, value in zip("ab", sizes, (0.0, 1.0), strict=True)
        },
    }
    row = corpus.row("g", "m", (arm, arm), ["a", "b"], group=True, parent=None)
    assert (row.n, row.baseline.value, row.difference.value, row.identical) == (120, score, 0.0, True)
    assert row.baseline.se > 0
