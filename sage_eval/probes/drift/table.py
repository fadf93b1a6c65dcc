"""`drift.json` as text: for a terminal, and as a section of `report.md`."""

from collections.abc import Iterator, Sequence

from sage_eval.probes.drift.lines import EXACT, OTHER, REPEAT, Way
from sage_eval.probes.drift.record import DriftRecord, LayerDrift, Series

HOW = (
    "Distances of each layer's attention output (all prompts, before the output projection) from the baseline's. "
    "*Same inputs*: the arm's kernel on the very q, k and v that the baseline's layer got: what one layer adds. *Own "
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
WAYS: dict[Way, str] = {"forced": "same", "free": "own"}
Table = tuple[list[str], list[list[str]]]


def text(record: DriftRecord) -> str:
    """For a terminal: the summary, relative L2 of all arms by layer, and the notes."""
    lines = [f"{_title(record)}; baseline {record.baseline}", "", *_aligned(_summary(record)), ""]
    lines += ["Relative L2 by layer, on the same inputs and in the arm's own run", *_aligned(_grid(record)), ""]
    return "\n".join([*lines, *_notes(record)]).rstrip() + "\n"


def markdown(record: DriftRecord) -> str:
    """A section for `report.md`."""
    lines = ["## Activation drift", "", f"{_title(record)}. {HOW}", "", *_piped(_summary(record)), ""]
    lines += [line for note in _notes(record) for line in (f"{note}", "")]
    for name, table in _layers(record):
        lines += [f"<details><summary>{name}, by layer</summary>", "", *_piped(table), "", "</details>", ""]
    lines += ["<details><summary>K's outlier channels, by layer</summary>", "", KEYS, "", *_piped(_keys(record)), ""]
    return "\n".join([*lines, "</details>"]) + "\n"


def _title(record: DriftRecord) -> str:
    return f"{record.prompts} prompts of {record.tokens:,} tokens ({record.text})"


def _summary(record: DriftRecord) -> Table:
    head = ["arm", "inputs", "mean rel. L2", "worst layer", "rel. L1", "1 − cosine", "worst token", "to exact", "share"]
    rows = []
    names = [arm.name for arm in record.arms[1:]]
    for way, label in WAYS.items():
        for name in [*names, OTHER, *([REPEAT] if way == "free" else [])]:
            series = record.find(way, name)
            if series is None:
                continue
            worst = max(series.layers, key=lambda layer: layer.relative_l2)
            token = min(series.layers, key=lambda layer: layer.worst_cosine)
            exact = record.find("forced", name, EXACT) if way == "forced" else None
            share = record.share(way, name) if name != OTHER else None
            rows.append([
                name, label, _number(series.mean_l2), f"{_number(worst.relative_l2)} (layer {worst.layer})",
                _number(_mean(series, "relative_l1")), _number(1 - _mean(series, "cosine")),
                f"{_number(1 - token.worst_cosine)} (layer {token.layer})",
                _number(exact.mean_l2) if exact else "", f"{100 * min(share, 1):.0f} %" if share is not None else "",
            ])  # fmt: skip
    if (own := record.find("forced", record.baseline, EXACT)) is not None:
        rows.append([record.baseline, "same", "", "", "", "", "", _number(own.mean_l2), ""])
    return head, rows


def _grid(record: DriftRecord) -> Table:
    """Layers × arms, with the largest R of smoothed K."""
    columns = [
        (f"{arm.name} {label}", {layer.layer: layer.relative_l2 for layer in series.layers})
        for arm in record.arms[1:]
        for way, label in WAYS.items()
        if (series := record.find(way, arm.name))
    ]
    rows = [
        [str(k.layer), f"{k.smoothed.peak:.3g}", *(_number(values[k.layer]) for _, values in columns)]
        for k in record.keys
    ]
    return ["layer", "R of K", *(name for name, _ in columns)], rows


def _layers(record: DriftRecord) -> Iterator[tuple[str, Table]]:
    head = ["layer", "inputs", "rel. L2", "of prompts", "rel. L1", "RMSE", "1 − cosine", "worst token", "worst head"]
    for arm in record.arms[1:]:
        found = [(label, record.find(way, arm.name)) for way, label in WAYS.items()]
        rows = [[str(layer.layer), label, *_row(layer)] for label, s in found if s for layer in s.layers]
        if rows:
            yield arm.name, (head, rows)


def _row(layer: LayerDrift) -> list[str]:
    low, high = layer.range_l2
    where = f"prompt {layer.worst_prompt}, {layer.worst_position}"
    return [
        _number(layer.relative_l2), f"{_number(low)} … {_number(high)}", _number(layer.relative_l1),
        _number(layer.rmse), _number(1 - layer.cosine), f"{_number(1 - layer.worst_cosine)} ({where})",
        f"{_number(layer.worst_head_l2)} ({layer.worst_head})",
    ]  # fmt: skip


def _keys(record: DriftRecord) -> Table:
    head = ["layer", "K: max / median", "smoothed", "largest R", "smoothed", "ratio", "smoothed"]
    rows = [
        [str(layer.layer), *(
            f"{value:.3g}"
            for pair in (
                [k.largest / k.median if k.median else float("inf") for k in (layer.raw, layer.smoothed)],
                [k.peak for k in (layer.raw, layer.smoothed)],
                [k.ratio for k in (layer.raw, layer.smoothed)],
            )
            for value in pair
        )]
        for layer in record.keys
    ]  # fmt: skip
    return head, rows


def _notes(record: DriftRecord) -> Iterator[str]:
    for arm in record.arms[1:]:
        forced, free = record.find("forced", arm.name), record.find("free", arm.name)
        if arm.role in ("candidate", "control") and forced and len(record.keys) > 2:
            yield (
                f"{arm.name}: rank correlation over layers of its same-input relative L2 with the largest R of K "
                f"{_correlation(record, forced, smoothed=False):+.2f}, smoothed "
                f"{_correlation(record, forced, smoothed=True):+.2f}."
            )
        if forced and free and not arm.shared:
            first = [series.layers[0].relative_l2 for series in (forced, free)]
            if first[0] != first[1]:
                yield (
                    f"{arm.name}: in the first layer, whose inputs are the same, its engine is {_number(first[1])} "
                    f"from the baseline and its kernel called alone {_number(first[0])}."
                )
        if arm.forced_error:
            yield f"{arm.name}, same inputs: not measured: {arm.forced_error}"
        if arm.error:
            yield f"{arm.name}, own inputs: not measured: {arm.error}"
    if record.other_error:
        yield f"{OTHER}: not measured: {record.other_error}"
    other = [] if record.other_error else [OTHER]
    if shared := [*(arm.name for arm in record.arms[1:] if arm.shared and not arm.error), *other]:
        yield f"Own inputs of {', '.join(shared)}: in the baseline's engine, with the arm's kernel in place of its own."


def _correlation(record: DriftRecord, forced: Series, *, smoothed: bool) -> float:
    from scipy.stats import spearmanr

    peaks = {layer.layer: (layer.smoothed if smoothed else layer.raw).peak for layer in record.keys}
    known = [layer for layer in forced.layers if layer.layer in peaks]
    found = spearmanr([peaks[layer.layer] for layer in known], [layer.relative_l2 for layer in known])
    return float(found.statistic)


def _mean(series: Series, name: str) -> float:
    return float(sum(getattr(layer, name) for layer in series.layers)) / len(series.layers)


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.2g}" if abs(value) >= 1e-3 else f"{value:.1e}"


def _piped(table: Table) -> list[str]:
    head, rows = table
    rule = ["---", "---", *["--:"] * (len(head) - 2)]
    return [f"| {' | '.join(row)} |" for row in ([*head], rule, *rows)]


def _aligned(table: Table) -> list[str]:
    head, rows = table
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        return "  ".join([*left, *(c.rjust(w) for c, w in zip(row[2:], widths[2:], strict=True))]).rstrip()

    return [line(row) for row in (head, *rows)]
