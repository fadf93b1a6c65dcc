"""The hub's data sets as lm-eval's tasks name them, read from the data folder instead."""

from pathlib import Path
from typing import Any

from sage_eval.data import mmlu, wikitext
from sage_eval.data.folder import data_dir
from sage_eval.errors import DataError

_HUB_NAMES = {"val": "validation"}
WIKITEXT_DOCUMENTS = "EleutherAI/wikitext_document_level"


def local_dataset(path: str | None, name: str | None) -> Any:
    """A `datasets.DatasetDict` for hub data set `path`, configuration `name`, out of the folder `SAGE_EVAL_DATA`.

    None where the variable is unset or the folder's format does not know the data set; then the hub is asked.
    Raises `DataError` for a file that is missing, cut short or changed.
    """
    root = data_dir()
    if root is None:
        return None
    if path == WIKITEXT_DOCUMENTS and name == wikitext.HUB_CONFIG:
        return _wikitext(root)
    if path == mmlu.HUB and name in mmlu.SUBJECTS:
        given = [split for split in ("test", "dev", "val") if split != "val" or (root / "mmlu" / split).is_dir()]
        splits = {_HUB_NAMES.get(split, split): mmlu.read_split(root, split, name) for split in given}
        return _dataset_dict(splits, f"{root}/mmlu")
    return None


def _wikitext(root: Path) -> Any:
    splits = {
        split: [{"page": page} for page in wikitext.documents(wikitext.read_raw(root, split))]
        for split, file in wikitext.FILES.items()
        if split == "test" or (root / "wikitext2" / file).is_file()
    }
    # lm-eval's task draws few-shot documents from "train" while it builds its requests, whatever their number, and then
    # scores the bare document. The train file is 11 MB that no score depends on, so a folder need not have it.
    splits.setdefault("train", splits.get("validation", splits["test"]))
    return _dataset_dict(splits, f"{root}/wikitext2")


def _dataset_dict(splits: dict[str, list[dict[str, Any]]], folder: str) -> Any:
    from datasets import Dataset, DatasetDict

    class Splits(DatasetDict):  # type: ignore[misc]
        """Says which split the folder lacks, where a task asks for it."""

        def __getitem__(self, split: Any) -> Any:
            if split not in self:
                raise DataError(f"{folder} lacks the split {split!r} that a task of this run reads; it has {[*self]}")
            return super().__getitem__(split)

    return Splits({split: Dataset.from_list(examples) for split, examples in splits.items()})
