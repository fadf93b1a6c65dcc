"""A run's differences as a data frame, and as what is made of one: CSV, Parquet, a paper's table."""

import io
import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sage_eval.compare.pairs import score
from sage_eval.render.table import MISSING, Table
from sage_eval.report import scores
from sage_eval.store.comparison import ArmPair, Comparison
from sage_eval.store.folder import Run

if TYPE_CHECKING:
    import pandas as pd

_NOT_ASCII = {
    "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "→": r"$\to$", "–": "--",
    "≤": r"$\le$", "≥": r"$\ge$", "…": r"\dots{}",
}  # fmt: skip
_FIT = (
    "\\centering\\footnotesize\\setlength{\\tabcolsep}{3pt}\n"
    "\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{"
)


def differences(run: Run) -> "pd.DataFrame":
    """One row per arm, task and metric. Scores as lm-eval has them; `difference` with its 95 % interval, standard error
    and p as in `comparison.json`: perplexities in natural logarithms. Flips, verdict and margin where there are any.
    """
    import pandas as pd

    return pd.DataFrame(list(_rows(run)))


def _rows(run: Run) -> Iterator[dict[str, Any]]:
    found, manifest = run.comparison, run.manifest
    devices = ", ".join(dict.fromkeys(device["name"] for device in manifest.devices)) or manifest.host["cpu"]
    verdicts = {(v.candidate, v.task, v.metric): v for v in (found.verdict.tasks if found.verdict else ())}
    for pair in found.pairs:
        arms = {
            "model": manifest.model["name"], "device": devices, "mode": found.mode, "arm": pair.candidate,
            "role": pair.role, "backend": found.arms[pair.candidate].backend,
            "against": found.arms[pair.baseline].backend,
        }  # fmt: skip
        for row in pair.tasks:
            verdict = verdicts.get((pair.candidate, row.task, row.metric))
            estimate = {name: asdict(row.difference)[name] for name in ("se", "low", "high", "p")}
            yield arms | {
                "task": row.task, "parent": row.parent, "metric": row.metric, "kind": row.kind,
                "higher_is_better": row.higher_is_better, "n": row.n,
                "baseline": score(row, "baseline"), "candidate": score(row, "candidate"),
                "difference": row.difference.value, **estimate,
                "lost": row.flips.lost if row.flips else None, "gained": row.flips.gained if row.flips else None,
                "verdict": verdict.verdict if verdict else None, "margin": verdict.margin if verdict else None,
            }  # fmt: skip


def csv(run: Run) -> dict[str, bytes]:
    """`differences` as comma-separated values."""
    return {"differences.csv": differences(run).to_csv(index=False).encode()}


def parquet(run: Run) -> dict[str, bytes]:
    """`differences` as Parquet."""
    data = io.BytesIO()
    differences(run).to_parquet(data, index=False)
    return {"differences.parquet": data.getvalue()}


def latex(run: Run) -> dict[str, bytes]:
    """The candidates' differences as a table of the package booktabs, in ASCII: one row per task, by its judged metric.

    A table that is wider than a line is made smaller.
    """
    found = run.comparison
    pairs = [pair for pair in found.pairs if pair.role == "candidate"]
    table = scores.scores(found, pairs, members=False)
    frame = _short(found, pairs, table)
    arms = ""
    if len(pairs) > 1:  # by number: a line has no room for the names of several
        numbers = {pair.candidate: str(number) for number, pair in enumerate(pairs, 1)}
        frame["arm"] = frame["arm"].map(numbers)
        arms = f" Arms: {', '.join(f'{number} {name}' for name, number in numbers.items())}."
    title = f"{len(pairs)} arms against {frame.columns[3]}, {found.mode} mode" if arms else table.title
    caption = (
        f"{run.manifest.model['name']}: {title}, the same items in each. The difference is candidate minus "
        "baseline, of perplexities (ppl) in natural logarithms, with a paired 95% interval; flips are items that only "
        f"the baseline ($-$) or only the candidate (+) got right.{arms}"
    )
    text = frame.to_latex(
        index=False,
        escape=True,
        caption=re.sub(r"(?<!\\)([%_&#])", r"\\\1", caption),
        label="tab:" + re.sub(r"[\W_]+", "-", run.folder.resolve().name),
        column_format="l" * table.names + "r" * (len(table.header) - table.names) + "l",
    )
    text = re.sub(r"(?<![\w}])-(?=\d)", "$-$", text)
    for sign, written in _NOT_ASCII.items():
        text = text.replace(sign, written)
    text = text.replace(r"\begin{tabular}", _FIT + r"\begin{tabular}").replace(r"\end{tabular}", r"\end{tabular}}")
    return {"table.tex": b"% \\usepackage{booktabs,graphicx}\n" + text.encode("ascii", "namereplace")}


def _short(found: Comparison, pairs: list[ArmPair], table: Table) -> "pd.DataFrame":
    """The rows of `table` that were judged, or of a task that was not its first, without what its interval says."""
    import pandas as pd

    header = ["arm" if name == "candidate" else name.removesuffix(" ± SE") for name in table.header]
    frame = pd.DataFrame([*map(list, table.rows)], columns=header)
    frame["verdict"] = list(_verdicts(found, pairs, frame))
    arms = ["task", *(["arm"] if len(pairs) > 1 else [])]
    judged = frame["verdict"] != MISSING
    unjudged = ~judged.groupby([frame[name] for name in arms]).transform("any") & ~frame.duplicated(arms)
    frame = frame[judged | unjudged].replace(
        {r" ± [\d.]+": "", r" \(no item differs\)": "", r"^(−\d+) / ": r"\1/"}, regex=True
    )
    frame["metric"] = frame["metric"].str.replace("_perplexity", " ppl")
    group = ""
    for place, name in frame["task"].items():
        group = group if name.startswith("– ") else name
        frame.loc[place, "task"] = name.replace(f"– {group}_", "– ")
    return frame


def _verdicts(found: Comparison, pairs: list[ArmPair], frame: "pd.DataFrame") -> Iterator[str]:
    judged = {(v.task, v.candidate, v.metric): v.verdict for v in (found.verdict.tasks if found.verdict else ())}
    for row in frame.to_dict("records"):
        name = row.get("arm", pairs[0].candidate)
        yield judged.get((row["task"], name, row["metric"].split()[0]), MISSING)
