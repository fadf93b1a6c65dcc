"""The `evaluate` modules, loaded by path with the hub switched off."""

import math

import evaluate
import numpy as np
import pytest
from scipy import stats

from sage_eval.comparisons import NAMES, path
from sage_eval.statistics.paired import paired_difference


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)


def load(name):
    return evaluate.load(path(name), module_type="comparison")


@pytest.fixture
def answers():
    rng = np.random.default_rng(5)
    references = rng.integers(0, 4, 600)
    base = np.where(rng.random(600) < 0.7, references, 3 - references)
    return references, base, np.where(rng.random(600) < 0.05, 3 - base, base)


@pytest.mark.parametrize("name", NAMES)
def test_every_module_loads_and_documents_itself(name):
    module = load(name)
    assert module.module_type == "comparison"
    assert "Returns:" in module.inputs_description


def test_unknown_name_lists_those_there_are():
    with pytest.raises(ValueError, match="paired_accuracy"):
        path("accuracy")


def test_accuracy_agrees_with_its_parts(answers):
    references, base, cand = answers
    result = load("paired_accuracy").compute(predictions1=base, predictions2=cand, references=references)
    correct = base == references, cand == references
    assert result["difference"] == pytest.approx(result["accuracy2"] - result["accuracy1"])
    assert result["accuracy1"] == pytest.approx(correct[0].mean())
    assert result["p_value"] == pytest.approx(stats.binomtest(result["lost"], result["lost"] + result["gained"]).pvalue)
    assert (result["low"], result["high"]) == (paired_difference(*correct).low, paired_difference(*correct).high)


def test_accuracy_takes_strings(answers):
    arms = [[f"answer {x}" for x in column] for column in answers]
    number = load("paired_accuracy").compute(references=answers[0], predictions1=answers[1], predictions2=answers[2])
    text = load("paired_accuracy").compute(references=arms[0], predictions1=arms[1], predictions2=arms[2])
    assert text == number


def test_accuracy_of_few_items_has_no_interval():
    result = load("paired_accuracy").compute(predictions1=[1] * 29, predictions2=[1] * 29, references=[1] * 29)
    assert result["low"] is None
    assert result["method"].startswith("too few")


@pytest.mark.parametrize(("margin", "equivalent"), [(0.001, False), (0.2, True)])
def test_equivalence_depends_on_the_margin(answers, margin, equivalent):
    references, base, cand = answers
    result = load("paired_equivalence").compute(
        predictions1=base, predictions2=cand, references=references, margin=margin
    )
    assert result["equivalent"] is equivalent
    assert (-margin < result["low"] and result["high"] < margin) is equivalent
    assert (result["items_to_settle"] is None) is equivalent


def test_perplexity_ratio_is_that_of_the_perplexities():
    rng = np.random.default_rng(2)
    words = rng.integers(50, 500, 60)
    base = -words * rng.normal(3, 0.3, 60)
    cand = base - words * 0.01
    result = load("log_perplexity_ratio").compute(predictions1=base, predictions2=cand, references=words)
    assert result["log_ratio"] == pytest.approx(0.01)
    assert result["ratio"] == pytest.approx(result["perplexity2"] / result["perplexity1"])
    assert result["perplexity1"] == pytest.approx(math.exp(-base.sum() / words.sum()))
