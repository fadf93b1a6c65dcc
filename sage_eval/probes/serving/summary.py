"""Medians, quantiles and ratios of a record. Pure functions."""

from typing import Any

import numpy as np

from sage_eval.probes.ratio import ratio
from sage_eval.probes.serving.record import Block, Cell, Record, Result
from sage_eval.probes.serving.scaling import quadratic_share

CLASSES = (("small", 1024, 0, 4096), ("medium", 8192, 4096, 32768), ("large", 32768, 32768, 1 << 40))
"""Name, the size it is measured at if possible, and the sizes (from, up to but not including) that belong to it."""

UNSTEADY = 1.25
"""p80 over p20 beyond which a cell's times are called unsteady: where the GPU is busy they differ by a few per cent."""


def unsteady(row: dict[str, Any]) -> bool:
    """Whether a row's times spread so far that its ratio says little."""
    return bool(row["seconds"]["p80"] > UNSTEADY * row["seconds"]["p20"])


def row(block: Block, arm: str, baseline: str) -> dict[str, Any]:
    """One line of the table: quantiles in seconds, tokens a second, and the ratio to the baseline of the same block."""
    result, base = block.results[arm], block.results.get(baseline)
    p20, p50, p80 = (float(x) for x in np.quantile(result.seconds, (0.2, 0.5, 0.8)))
    return {
        "kind": block.cell.kind,
        "size": block.cell.size,
        "arm": arm,
        "requests": block.requests,
        "rounds": len(result.seconds),
        "seconds": {"p20": p20, "p50": p50, "p80": p80},
        "tokens_per_second": _tokens(block) / p50,
        "ratio": None if base is None or arm == baseline else compare(block, base, result),
    }


def _tokens(block: Block) -> int:
    """Tokens computed in the seconds of a result: of prompts, of one decode step, or of a mix's prompts and answers."""
    match block.cell.kind:
        case "decode":
            return block.requests
        case "mixed":
            return block.tokens + (block.new_tokens or 0)
    return block.requests * block.cell.size


def compare(block: Block, base: Result, result: Result) -> dict[str, Any]:
    """The ratio of two arms of one block, and `baseline`: the median seconds of the baseline's runs that it is of."""
    found = ratio(base.seconds, result.seconds, paired=block.interleaved)
    paired = base.seconds[: found["rounds"]] if block.interleaved else base.seconds
    return found | {"baseline": float(np.median(paired))}


def summarise(record: Record) -> dict[str, Any]:
    """Rows of every measured cell, arms in the record's order, and the ratios at a glance."""
    rows = []
    for cell in cells(record):
        for arm in record.arms:
            blocks = [block for block in record.blocks_of(cell) if arm in block.results]
            # Beside the baseline is worth more than alone, more rounds than fewer; of several such the last counts.
            blocks.sort(key=lambda block: (record.baseline in block.results, len(block.results[arm].seconds)))
            if blocks:
                rows.append(row(_with_baseline(record, blocks[-1], arm), arm, record.baseline))
    for arm in record.arms:
        mine = {found["size"]: found for found in rows if found["kind"] == "prefill" and found["arm"] == arm}
        for size, share in quadratic_share({size: x["seconds"]["p50"] for size, x in mine.items()}).items():
            mine[size]["quadratic_share"] = share
    return {"rows": rows, "glance": glance(record, rows)}


def _with_baseline(record: Record, block: Block, arm: str) -> Block:
    """`block`, or, where the baseline ran by itself, the two side by side, marked as not interleaved."""
    if record.baseline in block.results or arm == record.baseline:
        return block
    for other in reversed(record.blocks_of(block.cell)):
        if record.baseline in other.results:
            results = {record.baseline: other.results[record.baseline], **block.results}
            return block.model_copy(update={"results": results, "interleaved": False})
    return block


def cells(record: Record) -> list[Cell]:
    """The measured cells by kind, each by size."""
    order = ("prefill", "packed", "decode", "mixed")
    return sorted({block.cell for block in record.blocks}, key=lambda cell: (order.index(cell.kind), cell.size))


def glance(record: Record, rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Arm → class (`small`, `medium`, `large`) → the measured prompt length nearest to the class's, and its ratio."""
    found: dict[str, dict[str, Any]] = {}
    for arm in record.arms:
        mine = [r for r in rows if r["kind"] == "prefill" and r["arm"] == arm and r["ratio"]]
        for name, target, low, high in CLASSES:
            fitting = [r for r in mine if low <= r["size"] < high]
            if fitting:
                nearest = min(fitting, key=lambda r: abs(r["size"] - target))
                its = nearest["ratio"]
                shaky = any(unsteady(r) for r in rows if (r["kind"], r["size"]) == ("prefill", nearest["size"]))
                found.setdefault(arm, {})[name] = {
                    "size": nearest["size"], "ratio": its["value"], "low": its["low"], "high": its["high"],
                    "method": its["method"], "unsteady": shaky,
                }  # fmt: skip
    return found
