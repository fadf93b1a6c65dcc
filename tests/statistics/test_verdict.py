"""Every branch of the verdict, by table; and how often two equal arms raise an alarm."""

from dataclasses import replace

import numpy as np
import pytest

from sage_eval.statistics.equivalence import items_to_settle
from sage_eval.statistics.paired import mean, paired_difference, paired_ratio_difference
from sage_eval.statistics.verdict import METRICS, Evidence, cautions, judge, seen_controls

ACCURACY, PERPLEXITY = METRICS["accuracy"], METRICS["log_perplexity"]


def answers(lost, gained, n=4_000):
    base, cand = np.zeros(n), np.zeros(n)
    base[:lost] = 1
    cand[lost : lost + gained] = 1
    return paired_difference(base, cand)


CONTROL = {"int4": answers(lost=60, gained=25)}  # 0.9 pp, less than two margins


def task(difference, name="mmlu", **changes):
    evidence = Evidence(name, ACCURACY, difference, controls=CONTROL, baseline=mean([1, 1, 1, 0] * 1_000), chance=0.25)
    return replace(evidence, **changes)


EQUAL, LOSS, GAIN, UNCLEAR = answers(20, 20), answers(160, 40), answers(40, 160), answers(60, 50)

TABLE = {
    "inside the margin": (task(EQUAL), "equivalent", "lies within ±0.5 pp"),
    "significant, yet inside": (task(answers(13, 1)), "equivalent", "a significant loss"),
    "significant gain, inside": (task(answers(1, 13)), "equivalent", "a significant gain"),
    "loss beyond": (task(LOSS), "worse", "beyond the margin of 0.5 pp"),
    "loss of unsettled size": (task(answers(60, 28)), "loss found", "whether it exceeds the margin of 0.5 pp"),
    "loss at chance": (task(LOSS, chance=0.9), "worse", "although the baseline is at chance"),
    "loss with low coverage": (
        task(LOSS, coverage=0.99, required_coverage=1.0),
        "worse",
        "although coverage is 99.00 %",
    ),
    "unsettled loss at chance": (task(answers(60, 28), chance=0.9), "loss found", "although the baseline is at chance"),
    "gain at chance": (task(GAIN, chance=0.9), "not established", "baseline is at chance"),
    "gain beyond": (task(GAIN), "better", "+3 pp"),
    "wide interval": (task(UNCLEAR), "inconclusive", "items would settle it"),
    "few items": (task(answers(0, 0, 29)), "inconclusive", "too few"),
    "few documents": (
        task(paired_difference(np.zeros(500), np.ones(500), clusters=np.arange(500) // 25)),
        "inconclusive",
        "at least 30 are needed, about 750 items",
    ),
    "coverage low": (task(EQUAL, coverage=0.97, required_coverage=1.0), "not established", "coverage is 97.00 %"),
    "coverage unknown": (task(EQUAL, required_coverage=1.0), "not established", "coverage is unknown"),
    "coverage reached": (task(EQUAL, coverage=1.0, required_coverage=1.0), "equivalent", "lies within"),
    "coverage not asked": (task(EQUAL, coverage=0.2), "equivalent", "lies within"),
    "at chance": (task(EQUAL, baseline=mean([1, 0, 0, 0] * 1_000)), "not established", "baseline is at chance"),
    "no control": (task(EQUAL, controls={}), "not established", "no positive control"),
    "control unseen": (task(EQUAL, controls={"int4": EQUAL}), "not established", "int4 was not seen"),
    "control helps": (task(EQUAL, controls={"int4": GAIN}), "not established", "int4 was not seen"),
    "control inside margin": (task(EQUAL, controls={"int4": answers(13, 1)}), "equivalent", "seen is 0.6 margins"),
    "strong control alone": (task(EQUAL, controls={"int4": LOSS}), "equivalent (blunt)", "seen is 6 margins"),
    "control too few": (task(EQUAL, controls={"int4": answers(20, 0, 29)}), "not established", "int4 was not seen"),
    "one control of two": (task(EQUAL, controls={**CONTROL, "other": EQUAL}), "equivalent", "lies within"),
    "control not beyond": (
        task(answers(120, 97), controls={"int4": answers(21, 0)}),
        "not established",
        "not beyond the candidate",
    ),
    "damage needs no control": (task(LOSS, controls={}), "worse", "-3 pp"),
    "damage beyond the control": (task(answers(900, 0)), "worse", "-22.5 pp"),
    "gain needs a control": (task(GAIN, controls={}), "not established", "no positive control"),
    "wide margin": (
        task(LOSS, metric=replace(ACCURACY, margin=0.05), controls={"int4": answers(300, 40)}),
        "equivalent",
        "a significant loss",
    ),
}


@pytest.mark.parametrize(("evidence", "kind", "reason"), TABLE.values(), ids=TABLE.keys())
def test_verdict_on_one_task(evidence, kind, reason):
    verdict = judge([evidence])
    assert (verdict.tasks[0].kind, verdict.kind) == (kind, kind)
    assert reason in verdict.tasks[0].reason


def nll(shift, spread=0.002, documents=62):
    rng = np.random.default_rng(0)
    words = rng.integers(500, 5_000, documents).astype(float)
    noise = rng.normal(size=documents)
    noise -= (noise * words).sum() / words.sum()
    return paired_ratio_difference(3 * words, words * (3 + shift + spread * noise), words)


@pytest.mark.parametrize(
    ("shift", "kind"), [(0.0005, "equivalent"), (0.02, "worse"), (-0.02, "better"), (0.004, "equivalent")]
)
def test_higher_perplexity_is_the_harm(shift, kind):
    evidence = Evidence("wikitext", PERPLEXITY, nll(shift), controls={"int4": nll(0.009)})
    assert judge([evidence]).kind == kind


ORDER = {
    "all equivalent": ([EQUAL, EQUAL], "equivalent", "every task"),
    "one better": ([EQUAL, GAIN], "better", "1 of 2 tasks: task1"),
    "inconclusive beats better": ([GAIN, UNCLEAR], "inconclusive", "task1"),
    "worse beats inconclusive": ([UNCLEAR, LOSS, EQUAL], "worse", "1 of 3 tasks: task1"),
}


@pytest.mark.parametrize(("differences", "kind", "reason"), ORDER.values(), ids=ORDER.keys())
def test_overall_verdict(differences, kind, reason):
    verdict = judge([task(difference, f"task{i}") for i, difference in enumerate(differences)])
    assert verdict.kind == kind
    assert reason in verdict.reason


def test_one_task_not_established_leaves_the_whole_so():
    assert judge([task(EQUAL), task(UNCLEAR), task(EQUAL, controls={})]).kind == "not established"


def test_holm_counts_every_task_that_is_tested():
    loss = answers(32, 14)  # p = 0.011: significant alone or among three, not among six
    alone, among_three, among_six = (
        judge([task(loss)] + [task(answers(9, 9))] * others).tasks[0] for others in (0, 2, 5)
    )
    assert (alone.kind, among_three.kind, among_six.kind) == ("loss found", "loss found", "inconclusive")
    assert among_three.p == pytest.approx(3 * alone.p)
    assert among_six.items == items_to_settle(loss, ACCURACY.margin, tests=6) > items_to_settle(loss, ACCURACY.margin)


def test_a_catastrophe_is_worse_whatever_bars_the_task():
    """Right answers fall from 61.5 to 48.3 %, the best constant answer scores 62.2 %."""
    n, rng = 14_042, np.random.default_rng(0)
    base = (rng.random(n) < 0.615).astype(float)
    cand = np.where(rng.random(n) < 0.25, rng.random(n) < 0.2, base)
    found = judge([task(paired_difference(base, cand), controls={}, baseline=mean(base), chance=0.622)])
    assert found.kind == "worse"


def test_a_verdict_needs_a_task():
    with pytest.raises(ValueError, match="at least one task"):
        judge([])


@pytest.mark.slow
def test_equal_arms_raise_few_alarms():
    # 5 % of 1,000 is 50, and 67 two and a half standard errors more
    rng = np.random.default_rng(2024)
    alarms, control = 0, nll(0.3)
    for _ in range(1_000):
        subjects, documents = 2_000, 62
        correct = (rng.random(subjects) < 0.6).astype(float)
        flipped = np.where(rng.random(subjects) < 0.02, 1 - correct, correct)
        # flips between equal arms go either way with the same chance
        base, cand = np.where(rng.random(subjects) < 0.5, (correct, flipped), (flipped, correct))
        words = rng.integers(500, 5_000, documents).astype(float)
        loss = words * rng.normal(3, 0.3, documents)
        noise = words * rng.normal(0, 0.02, (2, documents))
        verdict = judge(
            [
                task(paired_difference(base, cand)),
                Evidence(
                    "wikitext",
                    PERPLEXITY,
                    paired_ratio_difference(loss + noise[0], loss + noise[1], words),
                    controls={"int4": control},
                ),
            ]
        )
        alarms += any(t.kind in ("worse", "better") for t in verdict.tasks)
    assert alarms <= 67
    assert alarms >= 10, "a test that never alarms would have no power"


def test_how_many_harmless_doses_ran_changes_nothing():
    """A loss of 0.6 pp with p = 0.02 is seen by itself, and no less beside weaker damage that does nothing."""
    weak, none = answers(lost=61, gained=37), answers(lost=40, gained=40)
    assert 0.01 < weak.p < 0.05
    for others in range(5):
        doses = [f"dose-{i}" for i in range(others)]
        item = task(none, controls={"weak": weak} | dict.fromkeys(doses, none), doses=doses)
        assert seen_controls(item) == ["weak"]
        assert judge([item]).kind == "equivalent"


def test_doses_are_tested_from_the_strongest_down():
    none, weak, strong = answers(40, 40), answers(61, 37), answers(300, 40)
    seen = task(none, controls={"4": none, "16": weak, "64": strong}, doses=["64", "16", "4"])
    assert seen_controls(seen) == ["16", "64"]
    luck = task(none, controls={"4": weak, "16": none, "64": none}, doses=["64", "16", "4"])
    assert seen_controls(luck) == []
    assert "stronger doses were not seen" in judge([luck]).tasks[0].reason


def test_a_control_damaged_by_exactly_a_margin_is_seen_however_it_falls():
    """With many items its loss is as often a little less than the margin as a little more."""
    less = answers(lost=1_000, gained=510, n=100_000)
    assert seen_controls(task(EQUAL, controls={"int4": less})) == ["int4"]


def test_damage_that_is_not_seen_is_named_beside_that_which_is():
    none, strong = answers(lost=2, gained=2), answers(lost=300, gained=40)
    [found] = judge([task(none, controls={"mild": none, "strong": strong})]).tasks
    assert (found.kind, found.sharpness) == ("equivalent (blunt)", pytest.approx(13))
    assert found.reason.endswith("damage seen: strong; not seen: mild")


def test_an_equivalence_that_a_few_documents_carry_is_warned_of():
    rng = np.random.default_rng(7)
    words = np.full(200, 1_000.0)

    def text(losses):
        difference, control = (paired_ratio_difference(np.zeros(200), words * loss, words) for loss in losses)
        evidence = Evidence("text", PERPLEXITY, difference, controls={"int4": control})
        return judge([evidence]).tasks[0]

    control = rng.normal(0.008, 0.002, 200)
    even = text((rng.normal(0, 0.002, 200), control))
    few = text(((rng.random(200) < 0.03) * rng.normal(0.02, 0.004, 200), control))
    assert (even.kind, few.kind) == ("equivalent", "equivalent")
    assert "a few of its 200 units carry the difference" in few.reason
    assert "carry the difference" not in even.reason


def test_few_documents_are_warned_of_what_none_of_them_may_show():
    """0.95^58 is more than 5 %, 0.95^59 less."""
    few, enough = (paired_difference(np.zeros(n), np.full(n, 0.001) * np.arange(n)) for n in (58, 59))
    assert cautions(few) == ["a loss that one unit in 20 carries is in none of 58 with a probability of 5%"]
    assert cautions(enough) == []


def test_skewness_is_that_of_what_each_document_adds():
    from scipy import stats

    loss = np.exp(np.random.default_rng(5).normal(0, 1, 62))
    found = paired_difference(np.zeros(62), loss)
    assert found.skewness == pytest.approx(stats.skew(loss))
    # Cochran's rule: 25 times its square.
    assert found.skewed
    assert not replace(found, units=int(25 * found.skewness**2) + 1).skewed
