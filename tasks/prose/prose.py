"""The bundled text, one chapter a document, scored as lm-eval scores WikiText.

Ten documents are too few for a standard error: the task shows that the instrument runs, and is not evidence.
"""

from pathlib import Path
from typing import Any

from lm_eval.tasks.wikitext.preprocess_wikitext import process_results as score

from sage_eval.data.wikitext import documents

__all__ = ["load", "score"]


def load(**_: Any) -> Any:
    """The chapters, for lm-eval's `custom_dataset`; no argument changes them."""
    from datasets import Dataset, DatasetDict

    pages = documents((Path(__file__).parent / "text.txt").read_text())
    return DatasetDict({"test": Dataset.from_dict({"page": pages})})


load.task_args = ()  # type: ignore[attr-defined]
