"""Scores of the WikiText-2 tasks, with standard errors clustered by document.

lm-eval computes a standard error for means only, and fills in "N/A" for a perplexity. It sets each metric's two keys in
the order in which `process_results` names the metrics, so a metric called `word_perplexity_stderr`, named later, puts
its value where the "N/A" of `word_perplexity` was; tables and results files then show it like any other.
"""

import math
from typing import Any, cast

from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks.wikitext.preprocess_wikitext import process_results, wikitext_detokenizer

from sage_eval.data.tokenizers import tokenizer_of
from sage_eval.data.wikitext import load_raw
from sage_eval.data.windows import WINDOW, windows
from sage_eval.errors import UsageError

Item = tuple[float, int] | tuple[float, int, int]
"""Log-likelihood in nats; its words, bytes or tokens; the document it is part of, unless it is one itself."""

detokenize = wikitext_detokenizer


def score_document(doc: dict[str, Any], results: list[float]) -> dict[str, Item]:
    """lm-eval's own scores of a document, and the same items once more for the standard errors."""
    scores: dict[str, Item] = process_results(doc, results)
    return scores | {f"{name}_stderr": item for name, item in scores.items()}


def score_window(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, Item]:
    """Log-likelihood, scored tokens and document of a window."""
    item = (results[0][0], doc["tokens"], doc["document"])
    return {"token_perplexity": item, "token_perplexity_stderr": item}


def token_perplexity(items: list[Item]) -> float:
    """exp(−Σ log-likelihood / Σ tokens)."""
    return math.exp(-sum(item[0] for item in items) / sum(item[1] for item in items))


def perplexity_stderr(items: list[Item]) -> float | str:
    """Standard error of a perplexity (delta method: itself × SE of its logarithm); "N/A" below 30 documents."""
    error = _nats_stderr(items)
    return error if isinstance(error, str) else token_perplexity(items) * error


def bits_stderr(items: list[Item]) -> float | str:
    """Standard error of bits a byte; "N/A" below 30 documents."""
    error = _nats_stderr(items)
    return error if isinstance(error, str) else error / math.log(2)


def _nats_stderr(items: list[Item]) -> float | str:
    from sage_eval.statistics.paired import ratio_of_sums

    clusters = [item[2] if len(item) == 3 else number for number, item in enumerate(items)]
    estimate = ratio_of_sums([-item[0] for item in items], [item[1] for item in items], clusters=clusters)
    return "N/A" if estimate.se is None else estimate.se


def load_windows(window: int = WINDOW, **metadata: Any) -> Any:
    """The test set in windows, for lm-eval's `custom_dataset`; `metadata` names the tokenizer."""
    from datasets import Dataset, DatasetDict

    tokenizer = tokenizer_of(metadata, "sage_wikitext_tokens")
    examples = windows(load_raw("test"), tokenizer, int(window))
    if not examples:
        raise UsageError(f"window={window}: the WikiText-2 test set is shorter than one window; take a smaller one")
    return DatasetDict({"test": Dataset.from_list(cast(list[dict[str, Any]], examples))})


load_windows.task_args = ("window",)  # type: ignore[attr-defined]


class WindowTask(ConfigurableTask):  # type: ignore[misc]  # lm-eval is untyped
    """A task whose context is the window's first token, whatever chat template or system prompt the other tasks get."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def fewshot_context(self, doc: dict[str, Any], *args: Any, **kwargs: Any) -> str:
        """The first token's text; perplexity has neither turns nor shots."""
        return str(doc["context"])
