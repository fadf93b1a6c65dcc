"""lm-eval's registry and its own task folder: every metric has a rule, or is resampled or listed with a reason."""

import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import lm_eval
import lm_eval.filters  # registers them
import numpy as np
import pytest
import yaml
from lm_eval.api import metrics as theirs
from lm_eval.api.registry import (
    AGGREGATION_REGISTRY,
    DEFAULT_METRIC_REGISTRY,
    METRIC_REGISTRY,
    filter_registry,
    get_filter,
    get_metric_aggregation,
)

from sage_eval.compare import corpus, metrics
from sage_eval.store import samples

ROOT = Path(lm_eval.__path__[0]) / "tasks"


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Functions by their names: the tasks' modules want packages that nobody has all of."""


Loader.add_constructor("!function", lambda loader, node: SimpleNamespace(name=node.value))


def configurations():
    """Every task file that says anything of metrics, outputs or filters."""
    for path in sorted(ROOT.rglob("*yaml")):
        text = path.read_text()
        if re.search(r"^(metric_list|output_type|filter_list|repeats)\b", text, re.MULTILINE):
            yield path.relative_to(ROOT), yaml.load(text, Loader)


@pytest.fixture(scope="module")
def tasks():
    return dict(configurations())


def aggregation(metric, output_type):
    """The name under which `describe` finds the aggregation of a YAML's metric."""
    given = metric.get("aggregation")
    if isinstance(given, SimpleNamespace):
        return ".".join(given.name.split(".")[-2:])
    if given is None:
        name = metric["metric"]
        registered = isinstance(name, str) and name in METRIC_REGISTRY
        return metrics.name_of(get_metric_aggregation(name)) if registered else "mean"
    return given


def test_every_aggregation_of_lm_eval_has_a_rule():
    names = {metrics.name_of(function) for function in AGGREGATION_REGISTRY.values()}
    assert names == set(AGGREGATION_REGISTRY)
    assert names - metrics.RULES.keys() == {metrics.BYPASS}


def test_every_metric_of_lm_eval_has_a_rule():
    found = {name: metrics.name_of(get_metric_aggregation(name)) for name in METRIC_REGISTRY}
    assert {name for name, how in found.items() if how not in metrics.RULES} == {metrics.BYPASS}
    assert {name for names in DEFAULT_METRIC_REGISTRY.values() for name in names} <= found.keys()


VALUES = {
    "mean": [0.0, 1.0, 1.0],
    "nanmean": [0.5, float("nan"), 1.0],
    "perplexity": [-1.5, -2.0, -0.25],
    "weighted_perplexity": [(-15.0, 5), (-20.0, 4), (-3.0, 7)],
    "bits_per_byte": [(-15.0, 5), (-20.0, 4), (-3.0, 7)],
}


@pytest.mark.parametrize("name", VALUES)
def test_a_rules_value_is_the_aggregations(name):
    rule = metrics.RULES[name]
    kept = [score for value in VALUES[name] if (score := rule.keep(value)) is not None]
    if rule.kind == "mean":
        ours = np.mean(kept)
    else:
        ours = -sum(total for total, _ in kept) / sum(weight for _, weight in kept)
        ours = np.exp(ours) if rule.kind == "log-perplexity" else ours / np.log(2)
    assert ours == pytest.approx(AGGREGATION_REGISTRY[name](VALUES[name]))


TEXTS = [("the cat sat on a mat", f"the cat sat on {i}") for i in range(40)]
CORPUS = {
    "median": list(range(40)),
    "f1": [(i % 2, (i // 3) % 2) for i in range(40)],
    "matthews_corrcoef": [(i % 2, (i // 3) % 2) for i in range(40)],
    "brier_score": [(i % 2, np.array([0.25, 0.75])) for i in range(40)],
    "bleu": TEXTS,
    "chrf": TEXTS,
    "chrf++": TEXTS,
    "ter": TEXTS,
}


@pytest.mark.parametrize("name", metrics.CORPUS)
def test_each_score_of_all_items_is_a_function_of_their_shares(name):
    """As an aggregation of a task's own must be to be resampled."""
    values, function = CORPUS[name], AGGREGATION_REGISTRY[name]
    assert len(corpus._draws(function, values, "seed", 60, known=name == "median")) >= corpus.LEAST


def test_every_metric_of_lm_evals_tasks_is_compared_or_said_not_to_be(tasks):
    how = Counter()
    for path, config in tasks.items():
        outputs = config.get("output_type")
        assert outputs in (None, "loglikelihood", "loglikelihood_rolling", "multiple_choice", "generate_until"), path
        for metric in config.get("metric_list") or []:
            name = aggregation(metric, outputs)
            described = {"aggregation": name, "kind": metrics.RULES[name].kind if name in metrics.RULES else None}
            results = {"metrics": {"task": {"metric": described}}}
            known = metrics.kind(results, "task", "metric", None)
            why = metrics.reason(results, ["task"], "metric")
            kind = known or (
                "tried" if corpus._is_corpus(described) else "no metric" if name == metrics.BYPASS else None
            )
            assert kind, (path, metric)
            assert known or why or name == metrics.BYPASS, (path, metric)
            how[kind] += 1
    assert how["mean"] > 1500
    assert {"mean", "log-perplexity", "bits", "pooled", "resampled", "tried"} <= how.keys()


def test_the_functions_of_tasks_that_have_a_rule_are_there(tasks):
    """By name: one that lm-eval renames would be tried as an unknown one."""
    named = {aggregation(m, None) for config in tasks.values() for m in config.get("metric_list") or []}
    assert {name for name in metrics.RULES if "." in name} - named == {"wikitext2.token_perplexity"}
    from lm_eval.tasks.ruler.common_utils import aggregate_metrics

    rule, values = metrics.RULES["common_utils.aggregate_metrics"], [-1, 1.0, 0.5, -1]
    assert np.mean([score for value in values if (score := rule.keep(value)) is not None]) == aggregate_metrics(values)


def test_what_the_filters_of_lm_evals_tasks_make_of_an_answer_is_kept_as_text(tasks):
    chains = [f for config in tasks.values() for chain in config.get("filter_list") or [] for f in chain["filter"]]
    # Those that take, are or register a function of the task's own want its module.
    chains = [f for f in chains if not any(isinstance(value, SimpleNamespace) for value in f.values())]
    chains = [f for f in chains if f["function"] in filter_registry]
    known = {str(chain): chain for chain in chains}
    assert len({chain["function"] for chain in known.values()}) > 5
    for chain in known.values():
        options = {name: value for name, value in chain.items() if name != "function"}
        answers = [["The answer is (A).", *["B 3"] * 99]]
        made = list(get_filter(chain["function"])(**options).apply(answers, [{"choices": ["A", "B"]}]))
        scores, texts = samples._answers({"arguments": [("Q", {"until": []})], "filtered_resps": made})
        assert (scores, bool(texts)) == ([], True), chain


def test_lists_are_pooled_as_lm_evals_do():
    rule = metrics.RULES["utils.agg_inst_level_acc"]
    items = [[True, False], [True], [False, False, True]]
    kept = [rule.keep(item) for item in items]
    flat = [value for item in items for value in item]
    assert sum(a for a, _ in kept) / sum(n for _, n in kept) == theirs.mean(flat)
