"""Writes the pages that are made of something else: commands, schemas of records, tables of `results/`."""

import json
from pathlib import Path

from typer.main import get_command

ROOT = Path(__file__).resolve().parents[1]


def commands() -> str:
    """Every command with its flags, as the parser knows them."""
    import click

    from sage_eval.cli import app
    from sage_eval.cli.measure import fill

    fill()

    lines = ["# Commands", "", "Made of the command line itself: `sage-eval COMMAND --help` prints the same.", ""]

    def describe(command: click.Command, path: str) -> None:
        if isinstance(command, click.Group):
            for name, child in command.commands.items():
                describe(child, f"{path} {name}")
            return
        summary = " ".join((command.help or "").split("\f")[0].split())
        lines.extend([f"## `{path}`", "", summary, ""])
        rows = [(parameter, getattr(parameter, "help", None) or "") for parameter in command.params]
        rows = [(p, text) for p, text in rows if p.name != "help" and not getattr(p, "hidden", False)]
        if rows:
            lines.extend(["| flag | meaning |", "| --- | --- |"])
        for parameter, text in rows:
            name = parameter.human_readable_name if isinstance(parameter, click.Argument) else ", ".join(parameter.opts)
            lines.append(f"| `{name}` | {' '.join(text.split()).replace('|', chr(92) + '|')} |")
        lines.append("")

    describe(get_command(app), "sage-eval")
    return "\n".join(lines)


def records() -> str:
    """The JSON Schema of every file of a run folder."""
    from sage_eval.report.validate import schemas

    lines = [
        "# Records",
        "",
        "The JSON Schema of every file of a run folder, as `sage-eval schema` prints them. Every measurement leaves",
        "one file of its own: provenance, settings, arms, and rows. Files of older schemas are read through",
        "`sage_eval.store.old`, for ever: the tests keep one of each.",
        "",
    ]
    for name, schema in schemas().items():
        lines += [f"## `{name}`", "", "```json", json.dumps(schema, indent=1), "```", ""]
    return "\n".join(lines)


def performance() -> str:
    """What the published folders measured, as their reports show it today."""
    from sage_eval.render.sections import body
    from sage_eval.report import measurements

    parts = [
        "# Performance",
        "",
        "Made of the folders in `results/`; `sage-eval report results/NAME` renders each of them again. A ratio is the",
        "baseline's time over the arm's: more than 1 is faster. *Time to first token* is the time of a prefill.",
        "",
    ]
    for name, title in (("serving-h200-new-kernels", "One H200"), ("serving-h100", "One H100, earlier kernels")):
        for section in measurements.found(ROOT / "results" / name):
            parts += [f"## {title}: {section.title}", "", body(section.parts, "### {}"), ""]
    parts += ["## Kernels alone, one H200", "", _body(ROOT / "results" / "kernels-h200" / "README.md"), ""]
    return "\n".join(parts)


def _body(path: Path) -> str:
    """A page without its heading."""
    return path.read_text(encoding="utf-8").partition("\n")[2].replace("\n## ", "\n### ")


def notebook() -> str:
    """The notebook as it was run: its texts, cells and what they printed."""
    parts = []
    for cell in json.loads((ROOT / "docs" / "may-i-switch.ipynb").read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for shown in cell.get("outputs", []):
            parts.append(f"```text\n{''.join(shown.get('text') or shown['data']['text/plain']).rstrip()}\n```")
    return "\n\n".join(parts) + "\n"


PAGES = {
    "may-i-switch.md": notebook,
    "reference/commands.md": commands,
    "reference/records.md": records,
    "performance.md": performance,
    "log.md": lambda: (ROOT / "sage_eval" / "attention" / "kernels" / "LOG.md").read_text(encoding="utf-8"),
}

if __name__ == "__main__":
    for _name, _make in PAGES.items():
        _path = ROOT / "docs" / _name
        _path.parent.mkdir(exist_ok=True)
        _path.write_text(_make(), encoding="utf-8")
