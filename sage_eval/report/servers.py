"""The servers of a comparison side by side: speed, log-probabilities, retrieval, memory; and what was not fine."""

from collections.abc import Iterator, Mapping

from sage_eval.compare.servers import records
from sage_eval.measure.quick.judge import apart, perplexity
from sage_eval.measure.quick.record import QuickRecord
from sage_eval.measure.quick.view import speed
from sage_eval.render.sections import Part
from sage_eval.render.table import MISSING, Table
from sage_eval.store.folder import Run

_TIMES = (
    "×: so many times as fast as the baseline's server, median of its runs; in brackets the fastest and the slowest. "
    "The servers were measured one after the other: `repeat` says by how much two equal ones differ that way, and "
    "`sage-eval bench serving` takes turns."
)
_APART = "Differences: of log-probabilities to the baseline's, same texts, in nats. By length: numbers found/hidden."
_MEMORY = (
    "GB as each server reports them, in brackets the difference to the baseline's. SGLang goes by what was free before "
    "and after its start, which others on the device change; `sage-eval bench serving --memory-only` counts exactly."
)


def parts(run: Run) -> Iterator[Part]:
    """Nothing for a run without servers."""
    found = records(run)
    if not found:
        return
    base = found.get("baseline")
    rows = [(name, *row) for name, one in found.items() for row in speed(one, None if one is base else base)[1]]
    if rows:
        header, _ = speed(next(iter(found.values())), None)
        together = int(run.manifest.arguments.get("parallel") or 1)
        crowded = [f"{together} arms ran at a time: where they shared a GPU, they shared its speed."] * (together > 1)
        yield Table("Speed of the servers", ("arm", *header), rows, notes=[_TIMES, *crowded], names=2)
    yield Table("Answers of the servers", *_answers(found, base), notes=[_APART])
    if any(one.memory for one in found.values()):
        yield Table("Memory of the servers", *_memory(found, base), notes=[_MEMORY])
    odd = [(name, check) for name, one in found.items() for check in one.checks if check.state != "fine"]
    if odd:
        yield "\n".join(f"- {name}: {check.name}: **{check.state}**: {check.said}" for name, check in odd)


def _answers(
    found: Mapping[str, QuickRecord], base: QuickRecord | None
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    lengths = sorted({row.length for one in found.values() for row in one.retrieval})
    header = ("arm", "perplexity", "mean difference", "largest", "same bits when repeated")
    rows = []
    for name, one in found.items():
        gaps = None if base is None or one is base else apart(one, base)
        repeated = next((way for way in one.determinism if way.way == "repeat"), None)
        hits = {row.length: f"{row.found}/{row.asked}" for row in one.retrieval}
        rows.append(
            (
                name,
                f"{perplexity(one.logprobs.values):.3f}" if one.logprobs else MISSING,
                *((f"{gap:.2g}" for gap in gaps) if gaps else (MISSING, MISSING)),
                f"{repeated.identical}/{repeated.prompts}" if repeated else MISSING,
                *(hits.get(length, MISSING) for length in lengths),
            )
        )
    return (*header, *(f"{length:,}" for length in lengths)), rows


def _memory(
    found: Mapping[str, QuickRecord], base: QuickRecord | None
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    names = list(dict.fromkeys(name for one in found.values() for name, size in one.memory.items() if size))
    totals = {arm: {**one.memory, "together": sum(one.memory.values())} for arm, one in found.items()}
    zero = totals.get("baseline", {}) if base else {}
    rows = []
    for arm, sizes in totals.items():
        cells = []
        for name in (*names, "together"):
            size, then = sizes.get(name), zero.get(name)
            change = "" if arm == "baseline" or size is None or then is None else f" ({size - then:+.2f})"
            cells.append(MISSING if size is None else f"{size:.2f}{change}")
        rows.append((arm, *cells))
    return ("arm", *names, "together"), rows
