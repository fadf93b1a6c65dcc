"""Published runs side by side: one row per model, GPU and arm, of what the folders' own files say.

The table is that of `results/README.md`, between markers, and of `results/index.html`, with the figure that people look
at first. Of several runs of one model, GPU and arm a row shows the best calibrated, then the largest, then the newest
one, and of measurements the newest; it links to all of them.
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sage_eval.arms.shape import SHAPES
from sage_eval.attention.settings import AttentionSettings
from sage_eval.engine.options import BACKEND_ARGUMENTS, SAGE
from sage_eval.errors import DataError
from sage_eval.measure.serving import memory, summary
from sage_eval.render.figures import LIGHT, Drawing, Svg, canvas, svgs
from sage_eval.render.sections import Report, Section, script
from sage_eval.render.table import MISSING, Table, markdown
from sage_eval.render.text import code, escape
from sage_eval.report import comparison as comparison_report
from sage_eval.report import measurements, verdict
from sage_eval.statistics.estimate import Estimate
from sage_eval.statistics.ratio import Ratio
from sage_eval.statistics.verdict import GRAVEST_FIRST
from sage_eval.store import folder as layout
from sage_eval.store.comparison import ArmPair, Comparison, TaskComparison, TaskVerdict
from sage_eval.store.fidelity import TaskFidelity
from sage_eval.store.folder import Run
from sage_eval.store.record import Record

UNPUBLISHED = re.compile(r"demo|tmp.*|.*-again")
"""Names of folders that are no published runs: what `make demo` and `sage-eval reproduce` leave there."""
README, PAGE = "README.md", "index.html"
BEGIN, END = "<!-- leaderboard -->", "<!-- end of leaderboard -->"
HEADER = (
    "#", "model", "GPU", "arm, against", "verdict", "loss on text", "accuracy", "found at length",
    "KL divergence (floor)", "prefill, × as fast", "decode, × as fast", "memory of a prefill", "coverage", "runs",
)  # fmt: skip
NOTES = (
    "An arm is a backend for prompts + one for decode, with its settings; *against* is the baseline. Differences are "
    "arm − baseline, with the 95 % interval, that of the floor (two arms that should be equal), and the verdict on the "
    "task. Of texts and of accuracies a row shows the first; its runs have them all.",
    "*Found*: needles found at the greatest length, baseline → arm. *Flips*: items that only the baseline (−) or only "
    "the arm (+) got right. KL divergence is in nats a token. *×* is the baseline's time over the arm's; brackets are "
    "the 95 % interval or, with \\*, the range of rounds. *Memory*: the peak of the longest prefill beyond the "
    "baseline's. *Coverage*: the share of the prompts' tokens that SageAttention computed.",
)
FIGURE = (
    "One point per arm, by its number in the table; bars are 95 % intervals, for speed the range of rounds where they "
    "are few. Loss: the KL divergence of its first text beyond the floor's, else the difference of a text or another "
    "task, in margins of equivalence (shaded). Speed-up: of the prefill of about 8,192 tokens. Hollow points beyond a "
    "dotted line were not measured on its axis: speed does not need a model's weights, and losses do."
)
_CELLS = HEADER[4:-1]


@dataclass
class Entry:
    """A row: what its best sources say, by column."""

    model: str
    gpu: str
    arm: str
    baseline: str
    runs: list[str] = field(default_factory=list)
    cells: dict[str, str] = field(default_factory=dict)
    loss: Estimate | None = None
    """In margins, positive where worse."""
    speed: Ratio | None = None

    def take(self, run: str, cells: Mapping[str, str]) -> None:
        """What a source that is worse than those before it adds."""
        self.runs += [run] * (run not in self.runs)
        self.cells = {**cells, **self.cells}


Key = tuple[str, str, str, str]


def entries(folders: Iterable[Path]) -> list[Entry]:
    """The rows of all `folders` that hold a comparison or a measurement. `DataError` where one is damaged."""
    found: dict[Key, Entry] = {}
    runs, records = [], []
    for folder in folders:
        if (folder / layout.MANIFEST).exists():
            run = layout.load(folder)
            judged = run.comparison.verdict
            items = sum(arm.items for arm in run.comparison.arms.values())
            runs.append(((len(judged.missing) if judged else 2, -items, -run.manifest.created.timestamp()), run))
        records += [(record.provenance.created, folder.name, record) for record in measurements.read(folder).values()]
    for _, run in sorted(runs, key=lambda entry: entry[0]):
        manifest = run.manifest
        model, gpu = _model(manifest.model), _gpu(manifest.devices, manifest.host)
        for pair in run.comparison.pairs:
            if pair.role == "candidate":
                arm, baseline = (_of_run(run, name) for name in (pair.candidate, pair.baseline))
                entry = found.setdefault((model, gpu, arm, baseline), Entry(model, gpu, arm, baseline))
                entry.take(run.folder.name, dict(_scores(run.comparison, pair)))
                distances = run.fidelity.tasks if run.fidelity else []
                entry.take(run.folder.name, _divergence(distances, pair.candidate))
                entry.loss = entry.loss or _loss(run.comparison, pair)
    for _, name, record in sorted(records, key=lambda entry: entry[0], reverse=True):
        for arm, entry in _measured(record, found):
            _measure(entry, name, record, arm)
    return sorted((e for e in found.values() if e.cells), key=lambda e: (e.model, e.gpu, e.arm))


def _of_run(run: Run, name: str) -> str:
    """An arm of a comparison; a checkpoint of its own is named."""
    arm = run.comparison.arms[name]
    checkpoints = [run.arms[each].record.spec.model_args.get("pretrained") for each in (name, "baseline")]
    own = {} if checkpoints[0] == checkpoints[1] else {"pretrained": checkpoints[0]}
    return label(arm.backend, arm.engine.get("attention_settings") or {}, own)


def label(backend: str, settings: Mapping[str, Any], more: Mapping[str, Any] = MappingProxyType({})) -> str:
    """An arm as the command line writes it, its numerics and what else is not the default; of paths the last part."""
    told = dict(more)
    if SAGE in backend:
        known = AttentionSettings.from_mapping({k: v for k, v in settings.items() if v is not None})
        told = {"variant": known.variant} | known.model_dump(exclude_defaults=True, exclude_none=True) | told
    shown = ",".join(f"{name}={str(value).rpartition('/')[2]}" for name, value in told.items())
    return f"{backend}:{shown}" if shown else backend


def _model(model: Mapping[str, Any]) -> str:
    name = comparison_report.short(str(model.get("name")))
    weights = "random weights" if name in SHAPES else str(model.get("sha256") or "")[:8]
    return f"{name} ({weights})" if weights else name


def _gpu(devices: Sequence[Mapping[str, Any]], host: Mapping[str, Any]) -> str:
    names = [str(device["name"]).removeprefix("NVIDIA ") for device in devices]
    return names[0] if names else f"no GPU: {host.get('cores')} cores, {host.get('cpu')}"


def _measured(record: Record[Any], found: dict[Key, Entry]) -> Iterator[tuple[str, Entry]]:
    """The candidates of a record with their rows. Speed does not depend on weights, which its records do not name."""
    if record.baseline not in record.arms or not record.provenance.host:
        return
    model, gpu = _model(record.provenance.model), _gpu(record.provenance.devices, record.provenance.host)
    for name, arm in record.arms.items():
        if arm.role == "candidate":
            told, baseline = (_named(record.arms[each].arguments) for each in (name, record.baseline))
            same = [
                entry
                for entry in found.values()
                if (entry.gpu, entry.arm, entry.baseline) == (gpu, told, baseline)
                and model in (entry.model, entry.model.split(" (")[0])
            ]
            for entry in same or [found.setdefault((model, gpu, told, baseline), Entry(model, gpu, told, baseline))]:
                yield name, entry


def _named(arguments: Mapping[str, Any]) -> str:
    backends = [arguments[name] for name in BACKEND_ARGUMENTS if name in arguments]
    return label("+".join(backends), {name: arguments.get(name) for name in AttentionSettings.model_fields})


def _measure(entry: Entry, run: str, record: Record[Any], arm: str) -> None:
    if record.kind == "logits":
        distances = [row.distances.fidelity for row in record.rows if row.distances]
        entry.take(run, _divergence(distances, arm))
    if record.kind in ("serving", "memory"):
        timed = {row.cell for row in record.rows if row.arm == record.baseline and row.seconds}
        rows = [row for row in summary.counted(record) if row.arm == arm and row.cell in timed]
        prefill = [row for row in rows if row.work.kind == "prefill"]
        near = summary.nearest(prefill).get("medium")
        decode = [row for row in rows if row.work.kind == "decode"][:1]
        cells = {}
        for name, mine in (("prefill, × as fast", [near, *prefill[-1:]]), ("decode, × as fast", decode)):
            ratios = {row.cell: pair[0] for row in mine if row and (pair := summary.compared(record, row))}
            if ratios:
                cells[name] = "; ".join(itertools.starmap(_speed, ratios.items()))
            if near and near.cell in ratios:
                entry.speed = entry.speed or ratios[near.cell]
        if beyond := memory.beyond(record).get(arm):
            tokens, size = beyond
            cells["memory of a prefill"] = f"{size / 2**20:+,.0f} MiB at {tokens:,}"
        if cells:
            tokens_by = record.arms[arm].coverage
            ours = sum(n for kernel, n in tokens_by.items() if "/sage" in kernel)
            if total := sum(n for kernel, n in tokens_by.items() if kernel.startswith("prefill")):
                cells["coverage"] = f"{100 * ours / total:.0f} %"
            entry.take(run, cells)


def _speed(cell: str, ratio: Ratio) -> str:
    count = int(cell.rpartition("/")[2])
    size = f"{count:,}" if cell.startswith("prefill") else f"{count} sequence{'s' * (count > 1)}"
    if ratio.low is None:
        return f"{ratio.value:.2f} at {size} ({ratio.interval})"
    mark = r"\*" * (ratio.interval == "range")
    return f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]{mark} at {size}"


def _scores(comparison: Comparison, pair: ArmPair) -> Iterator[tuple[str, str]]:
    """The columns that a comparison fills, those without a value included: a row's scores are of one run."""
    judged = list(_judged(comparison, pair))
    found: dict[str, tuple[TaskVerdict, TaskComparison]] = {}
    for task, row in judged:
        found.setdefault(_column(row), (task, row))
    given = comparison.verdict.tasks if comparison.verdict else []
    kinds = [task.verdict for task in given if task.candidate == pair.candidate]
    yield "verdict", min(kinds, key=GRAVEST_FIRST.index, default=MISSING)
    for name in ("loss on text", "accuracy"):
        yield name, f"{escape(found[name][0].task)} {_difference(*found[name])}" if name in found else MISSING
    yield "found at length", _found(*found["found at length"]) if "found at length" in found else MISSING
    shares = [task.coverage for task, _ in judged if task.coverage is not None]
    yield "coverage", f"{100 * min(shares):.0f} %" if shares else MISSING


def _judged(comparison: Comparison, pair: ArmPair) -> Iterator[tuple[TaskVerdict, TaskComparison]]:
    rows = {(row.task, row.metric): row for row in pair.tasks}
    for task in comparison.verdict.tasks if comparison.verdict else []:
        if task.candidate == pair.candidate and task.margin and (row := rows.get((task.task, str(task.metric)))):
            yield task, row


def _column(row: TaskComparison) -> str:
    if row.kind == "log-perplexity":
        return "loss on text"
    if row.kind == "kl":
        return "KL divergence (floor)"  # whose cell is made of `fidelity.json`
    return "found at length" if row.cells else "accuracy"


def _difference(task: TaskVerdict, row: TaskComparison) -> str:
    floor = task.floors.get(task.floor or "")
    beside = f"; floor {verdict.number(task, floor.difference.value, exact=floor.identical, digits=2)}" if floor else ""
    flips = f"; flips −{row.flips.lost} / +{row.flips.gained}" if row.flips else ""
    value = verdict.number(task, row.difference.value, digits=2)
    interval = verdict.interval(task, row.difference, 2)
    return f"{value} {interval if interval[0] == '[' else f'({interval})'}{beside}{flips}; {task.verdict}"


def _found(task: TaskVerdict, row: TaskComparison) -> str:
    longest = [cell for cell in row.cells if cell.length == max(each.length for each in row.cells)]
    both = [sum(cell.n * getattr(cell, arm) for cell in longest) for arm in ("baseline", "candidate")]
    shares = " → ".join(f"{100 * found / sum(cell.n for cell in longest):.0f} %" for found in both)
    return f"{shares} at {longest[0].length:,}; in all {_difference(task, row)}"


def _divergence(tasks: Sequence[TaskFidelity], arm: str) -> dict[str, str]:
    """Of the arm's first text, and the largest of a floor arm on it."""
    for mine in tasks:
        if mine.arm == arm:
            equal = [each.statistics.kld.value for each in tasks if (each.role, each.task) == ("floor", mine.task)]
            return {
                "KL divergence (floor)": f"{mine.statistics.kld.value:.1e}" + (f" ({max(equal):.1e})" if equal else "")
            }
    return {}


def _loss(comparison: Comparison, pair: ArmPair) -> Estimate | None:
    # A divergence first: a perplexity may gain by what makes distributions worse.
    first = {"kl": 0, "log-perplexity": 1}
    judged = sorted(_judged(comparison, pair), key=lambda both: first.get(both[1].kind, 2))
    if not judged:
        return None
    (task, row), difference = judged[0], judged[0][1].difference
    by = (-1 if row.higher_is_better else 1) / (task.margin or 1.0)
    ends = [None if end is None else by * end for end in (difference.low, difference.high)]
    low, high = ends if by > 0 else ends[::-1]
    return Estimate(by * difference.value, None, low, high, difference.n, difference.method)


def table(rows: Sequence[Entry], results: Path, page: str = layout.REPORT) -> Table:
    """One row per entry; runs link to `page` where they have one."""
    lines = [
        (str(number), escape(row.model), escape(row.gpu), f"`{row.arm}`, {escape(row.baseline)}",
         *(row.cells.get(name, MISSING) for name in _CELLS), ", ".join(_link(results, run, page) for run in row.runs))
        for number, row in enumerate(rows, 1)
    ]  # fmt: skip
    return Table("", HEADER, lines, NOTES, names=4)


def _link(results: Path, run: str, page: str) -> str:
    shown = next((name for name in (page, layout.REPORT, README) if (results / run / name).exists()), None)
    return f"[{run}]({run}/{shown})" if shown else run


def figure(rows: Sequence[Entry]) -> Drawing:
    """Loss against speed-up, and beside the axes the arms that lack one of them."""
    drawing, [ax] = canvas(3.4)
    ends = {name: [end for row in rows if (each := getattr(row, name)) for end in (each.value, each.low, each.high)
                   if end is not None] for name in ("speed", "loss")}  # fmt: skip
    left, right = min([0.95, *ends["speed"]]) - 0.02, max([1.05, *ends["speed"]]) + 0.02
    bottom, top = min([-1.2, *ends["loss"]]), max([1.2, *ends["loss"]])
    alone = [row for row in rows if row.loss and not row.speed], [row for row in rows if row.speed and not row.loss]
    across, down = 0.05 * (right - left), 0.1 * (top - bottom)
    ax.axhspan(-1, 1, color=LIGHT["muted"], alpha=0.14, linewidth=0)
    ax.axhline(0, color=LIGHT["muted"], linewidth=0.8)
    ax.axvline(1, color=LIGHT["muted"], linewidth=0.8)
    for number, row in enumerate(rows, 1):
        if not row.speed and not row.loss:
            continue
        x = row.speed.value if row.speed else left - across * (1 + alone[0].index(row))
        y = row.loss.value if row.loss else bottom - down * (1 + alone[1].index(row))
        if row.speed and row.speed.low is not None and row.speed.high is not None:
            ax.plot([row.speed.low, row.speed.high], [y, y], color=LIGHT["candidate"], linewidth=1.2)
        if row.loss and row.loss.low is not None and row.loss.high is not None:
            ax.plot([x, x], [row.loss.low, row.loss.high], color=LIGHT["candidate"], linewidth=1.2)
        face = LIGHT["candidate"] if row.speed and row.loss else LIGHT["paper"]
        ax.plot([x], [y], "o", color=LIGHT["candidate"], markerfacecolor=face, markersize=5.5)
        ax.annotate(str(number), (x, y), (0, 5), textcoords="offset points", fontsize=8, ha="center")
    for missing, line, at in ((alone[0], ax.axvline, left), (alone[1], ax.axhline, bottom)):
        if missing:
            line(at, color=LIGHT["muted"], linewidth=0.8, linestyle=":")
    ax.set_xlim(left - across * (1 + len(alone[0])), right)
    ax.set_ylim(bottom - down * (1 + len(alone[1])), top)
    ax.set_xticks([tick for tick in ax.get_xticks() if left <= tick <= right])
    ax.set_yticks([tick for tick in ax.get_yticks() if bottom <= tick <= top])
    ax.set_xlabel("prefill, × as fast as the baseline  (faster →)")
    ax.set_ylabel("loss, in margins  (worse →)")
    return Drawing("loss-speed", "Loss against speed-up", FIGURE, drawing)


def report(rows: Sequence[Entry], results: Path, figures: Sequence[Svg] | None = None) -> Report:
    """The page: figure, table, and the commands that repeat the runs."""
    names = dict.fromkeys(name for row in rows for name in row.runs)
    commands = "\n\n".join(f"**{escape(name)}**\n\n{code(command(results / name), 'sh')}" for name in names)
    drawn = svgs(figure(rows) for _ in "1") if figures is None else figures
    return Report(
        "Published runs, side by side",
        [
            Section("trade", "Loss against speed-up", [], drawn),
            Section("leaderboard", "Leaderboard", [table(rows, results, layout.HTML)]),
            Section("repeat", "Repeat them", [commands]),
        ],
        "one row per model, GPU and arm; made of the run folders by sage-eval leaderboard",
        script=script("leaderboard.js"),
    )


def command(folder: Path) -> str:
    """What made the folder, one command a line."""
    lines = [line for record in measurements.read(folder).values() for line in record.provenance.commands]
    if (folder / layout.MANIFEST).exists():
        lines.insert(0, layout.read_manifest(folder).command)
    return "\n".join(dict.fromkeys(lines))


def build(results: Path) -> dict[str, str]:
    """The two files by name. `DataError` where `results` holds no run, or one that is damaged."""
    if not results.is_dir():
        raise DataError(f"{results} is not a folder of run folders")
    rows = entries(sorted(each for each in results.iterdir() if each.is_dir() and not UNPUBLISHED.fullmatch(each.name)))
    if not rows:
        raise DataError(f"{results} holds no run folder with an arm to show")
    path = results / README
    text = path.read_text(encoding="utf-8") if path.exists() else f"# Published runs\n\n{BEGIN}\n{END}\n"
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise DataError(f"{path} lacks the lines {BEGIN} and {END}, between which the table goes")
    made = markdown(table(rows, results))
    return {
        README: f"{before}{begin}\n\n{made}\n{end}{after}",
        PAGE: report(rows, results).page().text,
    }
