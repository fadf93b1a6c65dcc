"""A report as files: `report.md`, `report.html` and `figures/*.svg`."""

import os
from pathlib import Path

from sage_eval.errors import PrerequisiteError
from sage_eval.render.sections import Page, Report
from sage_eval.store import folder as layout
from sage_eval.store.files import write_bytes


def write(report: Report, target: Path) -> Page:
    """Write the report into the folder and return its page.

    Figures of an earlier call that there is no data for any more are removed. `PrerequisiteError` where a file cannot
    be written.
    """
    page, folder = report.page(), target / layout.FIGURES
    write_bytes(target / layout.REPORT, report.markdown().encode())
    for name, text in page.figures.items():
        write_bytes(folder / name, text.encode())
    try:
        for old in folder.glob("*.svg"):
            if old.name not in page.figures:
                old.unlink()
    except OSError as error:
        raise PrerequisiteError(f"cannot delete {error.filename}: {error.strerror}") from None
    write_bytes(target / layout.HTML, page.text.encode())
    return page


def writable(folder: Path) -> bool:
    """Whether files can be made in a run folder."""
    return os.access(folder, os.W_OK | os.X_OK)
