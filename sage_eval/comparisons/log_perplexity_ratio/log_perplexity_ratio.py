"""Paired ratio of two arms' perplexities on the same documents, as an `evaluate` comparison."""

from __future__ import annotations

import math
from typing import Any

import datasets
import evaluate

from sage_eval.statistics.paired import paired_ratio_difference

_DESCRIPTION = """
ln(perplexity 2 / perplexity 1) over the same documents, with an interval from the paired difference: the documents'
own difficulty cancels, which leaves a far narrower interval than that of either perplexity.
"""
_KWARGS_DESCRIPTION = """
Args:
    predictions1: the baseline's log-likelihood of each document, in nats.
    predictions2: the candidate's, in the same order.
    references: what to divide by: the words, bytes or tokens of each document.
    level: confidence level of the interval, 0.95 by default.
Returns:
    log_ratio, se, low and high in nats (None below 30 documents), p_value, perplexity1, perplexity2, ratio, n, method.
Examples:
    >>> comparison = evaluate.load("sage_eval/comparisons/log_perplexity_ratio", module_type="comparison")
    >>> result = comparison.compute(predictions1=[-20.0] * 40, predictions2=[-21.0] * 40, references=[10] * 40)
    >>> round(result["log_ratio"], 3)
    0.1
"""
_CITATION = """
@article{miller2024adding, author={Miller, Evan}, title={Adding Error Bars to Evals}, journal={arXiv:2411.00640},
year={2024}}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class LogPerplexityRatio(evaluate.Comparison):  # type: ignore[misc]  # evaluate ships no types
    """Logarithm of the candidate's perplexity over the baseline's."""

    def _info(self) -> Any:
        number = datasets.Value("float64")
        return evaluate.ComparisonInfo(
            module_type="comparison",
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions1": number, "predictions2": number, "references": number}),
        )

    def _compute(
        self, predictions1: list[float], predictions2: list[float], references: list[float], level: float = 0.95
    ) -> dict[str, Any]:
        base, cand = ([-x for x in arm] for arm in (predictions1, predictions2))
        log_ratio = paired_ratio_difference(base, cand, references, level=level)
        return {
            "log_ratio": log_ratio.value,
            "se": log_ratio.se,
            "low": log_ratio.low,
            "high": log_ratio.high,
            "p_value": log_ratio.p,
            "perplexity1": math.exp(sum(base) / sum(references)),
            "perplexity2": math.exp(sum(cand) / sum(references)),
            "ratio": math.exp(log_ratio.value),
            "n": log_ratio.n,
            "method": log_ratio.method,
        }
