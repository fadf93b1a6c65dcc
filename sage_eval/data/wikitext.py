"""WikiText-2 (Merity et al. 2016): the raw file, its documents, and the rows of the hub's line-level table."""

from collections.abc import Callable, Sequence
from pathlib import Path

from sage_eval.data.folder import check_file, data_dir
from sage_eval.errors import DataError

HUB_LINES = "Salesforce/wikitext"
HUB_CONFIG = "wikitext-2-raw-v1"
FILES = {"train": "wiki.train.raw", "validation": "wiki.valid.raw", "test": "wiki.test.raw"}


def read_raw(root: Path, split: str) -> str:
    """The raw text of `split` from a data folder, checked against its SHA-256."""
    path = check_file(root, f"wikitext2/{FILES[split]}")
    return path.read_bytes().decode()


def documents(raw: str) -> list[str]:
    """The articles of a raw file, cut as `EleutherAI/wikitext_document_level` cuts them: 62 in the test set.

    An article begins at a ` = Title = ` line; the newline before that line belongs to neither.
    """
    pages: list[str] = []
    lines: list[str] = []
    for line in raw.split("\n"):
        title = line.replace("= = =", "===").replace("= =", "==").strip()
        if title.startswith("= ") and title.endswith(" ="):
            pages.append("\n".join(lines))
            lines = []
        lines.append(line)
    pages.append("\n".join(lines))
    return [page for page in pages[:-1] if page.strip()] + pages[-1:]


def rows(raw: str) -> list[str]:
    """The rows of `Salesforce/wikitext`: one a line, with its newline, and "" for a blank one."""
    return [f"{line}\n" if line.strip() else "" for line in raw.split("\n")[:-1]]


def raw_from_rows(table: list[str]) -> str:
    """The inverse of `rows`: the canonical raw file, byte for byte."""
    return "".join(row or " \n" for row in table)


def load_raw(split: str) -> str:
    """The raw text of `split` from `SAGE_EVAL_DATA` if that is set, else from the hub."""
    if (root := data_dir()) is not None:
        return read_raw(root, split)
    from datasets import load_dataset

    return raw_from_rows(load_dataset(HUB_LINES, HUB_CONFIG, split=split)["text"])


def first_tokens(encode: Callable[[str], Sequence[int]], count: int, tokens: int) -> list[tuple[int, ...]]:
    """The first `tokens` ids of the first `count` articles of the test set that have as many.

    `DataError` where there are fewer.
    """
    found = [tuple(ids[:tokens]) for ids in map(encode, documents(load_raw("test"))) if len(ids) >= tokens][:count]
    if len(found) < count:
        raise DataError(f"only {len(found)} documents have {tokens} tokens: ask for fewer --prompts or --tokens")
    return found
