"""Text: reading a folder of it, and cleaning Markdown books."""

import lzma
import re
from pathlib import Path

from sage_eval.errors import DataError

PAGE = "\f"
"""Separates documents inside one file."""


def read_documents(folder: Path) -> list[str]:
    """All documents below `folder`: `.txt` and `.md` files and the same with `.xz`, in the order of their names.

    A form feed inside a file begins another document. Raises `DataError` where there is no text.
    """
    files = [path for path in sorted(folder.rglob("*")) if re.search(r"\.(txt|md)(\.xz)?$", path.name)]
    files = [path for path in files if path.name.lower() not in ("readme.md", "readme.txt")]
    documents = []
    for path in files:
        content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        documents += content.decode().split(PAGE)
    documents = [text for text in documents if text.strip()]
    if not documents:
        raise DataError(f"{folder} has no text: put .txt, .md or .xz files of them there")
    return documents


def clean_markdown(text: str) -> str:
    """A Markdown book as plain prose: no marks of emphasis, headings or rules; at most one empty line."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\ufeff", "").replace("\xa0", " ")
    for pattern, replacement in (
        (r"^-{3,}\s*$", ""),
        (r"^\s*\*( ?\*)+\s*$", ""),  # * * *
        (r"^# Title: *", ""),
        (r"^## Author: *", "by "),
        (r"^## Year: .*$", ""),
        (r"^#+ *", ""),
        (r"\*+", ""),
        (r"(?<!\w)_+|_+(?!\w)", ""),
        (r"[ \t]+\n", "\n"),
        (r"[ \t]{2,}", " "),
        (r"\n{3,}", "\n\n"),
    ):
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text.strip() + "\n"


def typographic(text: str) -> str:
    """Straight quotes and double hyphens as curly quotes and dashes: the other of the two styles that books come in."""
    text = re.sub(r'(^|[\s(\[—-])"', r"\1“", text, flags=re.MULTILINE).replace('"', "”")
    text = re.sub(r"(^|[\s(\[—“-])'(?=\w)", r"\1‘", text, flags=re.MULTILINE).replace("'", "’")
    return re.sub(r" ?-{2,} ?", "—", text)


def flatten(text: str) -> str:
    """One line: every run of white space is a space."""
    return " ".join(text.split())
