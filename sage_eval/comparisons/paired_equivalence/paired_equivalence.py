"""Are two arms equally accurate, to within a margin? Paired one-sided tests, as an `evaluate` comparison."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from sage_eval.statistics.equivalence import equivalence, items_to_settle, minimum_detectable_effect
from sage_eval.statistics.paired import paired_difference

_DESCRIPTION = """
Equivalence test (TOST) of two sets of predictions on the same items: "no difference found" is not "no difference"; this
rejects a difference as large as the margin, or says how many items it would take.
"""
_KWARGS_DESCRIPTION = """
Args:
    predictions1: the baseline's predictions, integers or strings.
    predictions2: the candidate's, in the same order.
    references: the right answers.
    margin: largest difference of accuracy that does not matter, as a share; 0.005 by default.
    alpha: level of the test, 0.05 by default.
Returns:
    equivalent, p_value (the larger one-sided p; None below 30 items), difference, low and high (the 1 − 2·alpha
    interval), margin, minimum_detectable_effect (80 % power), items_to_settle (None where equivalent), n, method.
Examples:
    >>> comparison = evaluate.load("sage_eval/comparisons/paired_equivalence", module_type="comparison")
    >>> comparison.compute(predictions1=[1, 0] * 500, predictions2=[1, 0] * 500, references=[1, 1] * 500)["equivalent"]
    True
"""
_CITATION = """
@article{schuirmann1987comparison, author={Schuirmann, Donald J.}, journal={Journal of Pharmacokinetics and
Biopharmaceutics}, title={A comparison of the two one-sided tests procedure and the power approach}, volume={15},
pages={657--680}, year={1987}}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class PairedEquivalence(evaluate.Comparison):  # type: ignore[misc]  # evaluate ships no types
    """Equivalence of two accuracies within a margin."""

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
        self,
        predictions1: list[Any],
        predictions2: list[Any],
        references: list[Any],
        margin: float = 0.005,
        alpha: float = 0.05,
    ) -> dict[str, Any]:
        truth = np.asarray(references)
        difference = paired_difference(np.asarray(predictions1) == truth, np.asarray(predictions2) == truth)
        test = equivalence(difference, margin, alpha)
        return {
            "equivalent": test.equivalent,
            "p_value": test.p,
            "difference": difference.value,
            "low": test.interval.low,
            "high": test.interval.high,
            "margin": margin,
            "minimum_detectable_effect": minimum_detectable_effect(difference, alpha),
            "items_to_settle": None if test.equivalent else items_to_settle(difference, margin, alpha),
            "n": difference.n,
            "method": difference.method,
        }
