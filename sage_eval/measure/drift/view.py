"""A record of `probe drift` as text, tables and figures."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from sage_eval.measure.base import View
from sage_eval.measure.drift.lines import OTHER, OWN, SAME
from sage_eval.measure.drift.record import Drift, Latest, LayerDrift, LayerKeys, mean_l2
from sage_eval.render.figures import Drawing, canvas, log_label, strokes, svgs
from sage_eval.render.sections import Folded
from sage_eval.render.table import Table
from sage_eval.store.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HOW = (
    "Distances of each layer's attention output (all prompts, before the output projection) from the baseline's. "
    "*Same inputs*: the arm's kernel on the q, k and v that the baseline's layer got: what one layer adds. *Own "
    "inputs*: the arm's own run, where the error of earlier layers is in the inputs of later ones: what has "
    f"accumulated. Relative L2 is |b − a| / |a|; `{OTHER}` is an exact 16-bit kernel of another make, and the share is "
    "its distance over the arm's: that much is the rounding of 16-bit numbers and no loss of the arm's. *To exact* is "
    "the distance from attention computed in fp32 on those inputs. `repeat` is the baseline once more."
)
KEYS = (
    "K's channels, which set the scale of a block of 64 keys: R is the median over blocks of a channel's largest |K|; "
    "the ratio is the largest R over the median R of its head. What smoothing (K less its mean) takes off, INT8 need "
    "not carry."
)
METRICS: tuple[tuple[str, Callable[[LayerDrift], float]], ...] = (
    ("relative L2", lambda layer: layer.relative_l2),
    ("1 − cosine, mean of tokens", lambda layer: 1 - layer.cosine),
    ("1 − cosine, worst token", lambda layer: 1 - layer.worst_cosine),
)
CELLS = (
    (SAME, "drift-same-inputs", "Attention output on the baseline's inputs, by layer"),
    (OWN, "drift-own-inputs", "Attention output in the arm's own run, by layer"),
)
LABELS = {SAME: "same", OWN: "own"}
REPEAT = "repeat"
"""The baseline's second run: what differs there is no drift."""


def view(record: Record[Drift], title: str) -> View:
    """The parts and figures of a page."""
    found, asked = Latest(record), record.settings
    parts: list[str | Table | Folded] = [
        f"{asked['prompts']} prompts of {asked['tokens']:,} tokens ({asked['text']}); baseline {found.baseline}. {HOW}",
        _summary(found),
        *_notes(found),
        Folded("Relative L2 by layer", [_grid(found)]),
    ]
    head = ["layer", "inputs", "rel. L2", "of prompts", "rel. L1", "RMSE", "1 − cosine", "worst token", "worst head"]
    for arm in found.arms:
        rows = [
            [str(layer.layer), label, *_metrics(layer)]
            for cell, label in LABELS.items()
            for layer in found.layers(cell, arm)
        ]
        if rows:
            parts.append(Folded(f"{arm}, by layer", [Table("", head, rows, names=2)]))
    parts.append(Folded("K's outlier channels, by layer", [KEYS, _keys(found.keys)]))
    return View(title, parts, svgs(_drawings(found)))


def _summary(found: Latest) -> Table:
    head = ["arm", "inputs", "mean rel. L2", "worst layer", "rel. L1", "1 − cosine", "worst token", "to exact", "share"]
    rows = []
    for cell, label in LABELS.items():
        for name in [*found.arms, OTHER, found.baseline]:
            if not (layers := found.layers(cell, name)):
                continue
            worst = max(layers, key=lambda layer: layer.relative_l2)
            token = min(layers, key=lambda layer: layer.worst_cosine)
            exact = found.rows[cell, name].exact
            share = found.share(cell, name) if name != OTHER else None
            rows.append([
                name if name != found.baseline else REPEAT, label, _number(mean_l2(layers)),
                f"{_number(worst.relative_l2)} (layer {worst.layer})",
                _number(fmean(layer.relative_l1 for layer in layers)),
                _number(1 - fmean(layer.cosine for layer in layers)),
                f"{_number(1 - token.worst_cosine)} (layer {token.layer})",
                _number(mean_l2(exact)) if exact else "", f"{100 * min(share, 1):.0f} %" if share is not None else "",
            ])  # fmt: skip
    if found.exact:
        rows.append([found.baseline, "same", "", "", "", "", "", _number(mean_l2(found.exact)), ""])
    return Table("", head, rows, names=2)


def _grid(found: Latest) -> Table:
    """Layers × arms, with the largest R of smoothed K."""
    columns = {
        f"{arm} {label}": {layer.layer: layer.relative_l2 for layer in layers}
        for arm in found.arms
        for cell, label in LABELS.items()
        if (layers := found.layers(cell, arm))
    }
    rows = [
        [str(k.layer), f"{k.smoothed.peak:.3g}", *(_number(values[k.layer]) for values in columns.values())]
        for k in found.keys
    ]
    return Table("", ["layer", "R of K", *columns], rows)


def _metrics(layer: LayerDrift) -> list[str]:
    low, high = layer.range_l2
    where = f"prompt {layer.worst_prompt}, {layer.worst_position}"
    return [
        _number(layer.relative_l2), f"{_number(low)} … {_number(high)}", _number(layer.relative_l1),
        _number(layer.rmse), _number(1 - layer.cosine), f"{_number(1 - layer.worst_cosine)} ({where})",
        f"{_number(layer.worst_head_l2)} ({layer.worst_head})",
    ]  # fmt: skip


def _keys(keys: Sequence[LayerKeys]) -> Table:
    head = ["layer", "K: max / median", "smoothed", "largest R", "smoothed", "ratio", "smoothed"]
    rows = []
    for layer in keys:
        pair = (layer.raw, layer.smoothed)
        spread = [k.largest / k.median if k.median else float("inf") for k in pair]
        values = [*spread, *(k.peak for k in pair), *(k.ratio for k in pair)]
        rows.append([str(layer.layer), *(f"{value:.3g}" for value in values)])
    return Table("", head, rows)


def _notes(found: Latest) -> Iterator[str]:
    for arm in found.arms:
        same, own = found.layers(SAME, arm), found.layers(OWN, arm)
        if found.record.arms[arm].role in ("candidate", "control") and same and len(found.keys) > 2:
            raw, smoothed = (_correlation(same, found.keys, name) for name in ("raw", "smoothed"))
            yield (
                f"{arm}: rank correlation over layers of its same-input relative L2 with the largest R of K "
                f"{raw:+.2f}, smoothed {smoothed:+.2f}."
            )
        if same and own and not found.rows[OWN, arm].shared and same[0].relative_l2 != own[0].relative_l2:
            yield (
                f"{arm}: in the first layer, whose inputs are the same, its engine is {_number(own[0].relative_l2)} "
                f"from the baseline and its kernel called alone {_number(same[0].relative_l2)}."
            )
    for arm in (*found.arms, OTHER):
        for cell in LABELS:
            if error := found.error(cell, arm):
                yield f"{arm}, {cell}: not measured: {error}"
    if shared := [arm for arm in (*found.arms, OTHER) if (row := found.rows.get((OWN, arm))) and row.shared]:
        yield f"Own inputs of {', '.join(shared)}: in the baseline's engine, with the arm's kernel in place of its own."


def _correlation(layers: Sequence[LayerDrift], keys: Sequence[LayerKeys], name: str) -> float:
    from scipy.stats import spearmanr

    peaks = {layer.layer: float(getattr(layer, name).peak) for layer in keys}
    known = [layer for layer in layers if layer.layer in peaks]
    return float(spearmanr([peaks[layer.layer] for layer in known], [layer.relative_l2 for layer in known]).statistic)


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.2g}" if abs(value) >= 1e-3 else f"{value:.1e}"


def _drawings(found: Latest) -> Iterator[Drawing]:
    """Layers × metric: what a layer adds, and what has accumulated."""
    for cell, name, title in CELLS:
        # A logarithmic axis has no place for what is zero throughout, as the baseline's second run should be.
        shown = {arm: layers for arm in (*found.arms, OTHER, found.baseline) if (layers := found.layers(cell, arm))}
        if shown := {arm: layers for arm, layers in shown.items() if mean_l2(layers)}:
            yield _draw(found, shown, name, title)


def _draw(found: Latest, shown: Mapping[str, Sequence[LayerDrift]], name: str, title: str) -> Drawing:
    figure, axes = canvas(5.6, len(METRICS), sharex=True)
    roles = [found.record.arms[arm].role if arm in found.arms else "floor" for arm in shown]
    for (arm, layers), style in zip(shown.items(), strokes(roles), strict=True):
        for ax, (_, value) in zip(axes, METRICS, strict=True):
            heights = [value(layer) if value(layer) > 0 else float("nan") for layer in layers]
            ax.plot([layer.layer for layer in layers], heights, **style, markersize=3, linewidth=1.2, label=arm)
    for ax, (label, _) in zip(axes, METRICS, strict=True):
        _log(ax)
        ax.set_title(label)
    axes[-1].set_xlabel("layer")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=1)
    means = "; ".join(f"{arm} {mean_l2(layers):.2g}" for arm, layers in shown.items())
    return Drawing(name, title, f"Against {found.baseline}. Mean relative L2 over layers: {means}.", figure)


def _log(ax: "Axes") -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator

    ax.set_yscale("log")
    low, high = ax.get_ylim()
    narrow = high < 30 * low
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}" if narrow else log_label(value))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="y", linewidth=0.6)
    ax.minorticks_off()
