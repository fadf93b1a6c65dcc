"""Paired difference of two arms' accuracies on the same items, as an `evaluate` comparison."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from sage_eval.statistics.paired import flips, paired_difference

_DESCRIPTION = """
Difference of accuracy between two sets of predictions on the same items: Tango's score interval, which holds with few
or no changed answers, the exact McNemar test, and the flips behind both.
"""
_KWARGS_DESCRIPTION = """
Args:
    predictions1: the baseline's predictions, integers or strings.
    predictions2: the candidate's, in the same order.
    references: the right answers.
    level: confidence level of the interval, 0.95 by default.
Returns:
    accuracy1, accuracy2, difference (2 − 1, as a share), low and high (None below 30 items), p_value (exact McNemar),
    lost and gained (right in 1 alone, in 2 alone), n, method.
Examples:
    >>> comparison = evaluate.load("sage_eval/comparisons/paired_accuracy", module_type="comparison")
    >>> comparison.compute(predictions1=[1, 0] * 50, predictions2=[1, 0] * 50, references=[1, 1] * 50)["difference"]
    0.0
"""
_CITATION = """
@article{tango1998equivalence, author={Tango, Toshiro}, journal={Statistics in Medicine}, volume={17}, pages={891--908},
title={Equivalence test and confidence interval for the difference in proportions for the paired-sample design},
year={1998}}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class PairedAccuracy(evaluate.Comparison):  # type: ignore[misc]  # evaluate ships no types
    """Accuracy of the candidate minus the baseline's."""

    def _info(self) -> Any:
        kinds = (datasets.Value("int64"), datasets.Value("string"))
        names = ("predictions1", "predictions2", "references")
        return evaluate.ComparisonInfo(
            module_type="comparison",
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=[datasets.Features(dict.fromkeys(names, kind)) for kind in kinds],
        )

    def _compute(
        self, predictions1: list[Any], predictions2: list[Any], references: list[Any], level: float = 0.95
    ) -> dict[str, Any]:
        truth = np.asarray(references)
        base, cand = np.asarray(predictions1) == truth, np.asarray(predictions2) == truth
        difference, table = paired_difference(base, cand, level=level), flips(base, cand)
        return {
            "accuracy1": float(base.mean()),
            "accuracy2": float(cand.mean()),
            "difference": difference.value,
            "low": difference.low,
            "high": difference.high,
            "p_value": table.p,
            "lost": table.lost,
            "gained": table.gained,
            "n": table.n,
            "method": difference.method,
        }
