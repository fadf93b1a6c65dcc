"""`fidelity.json`: how far each arm's next-token distributions are from the baseline's, by the top-k lists.

`divergence.parquet` has the KL divergence position by position, so that others can recompute what is made of it. A row
is a token position (`task`, `doc_id`, `document` as the statistics have it, tokens of `context`), a column of float16
an arm, in nats.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from sage_eval.statistics.estimate import Estimate
from sage_eval.statistics.fidelity import Fidelity
from sage_eval.statistics.paired import mean, paired_difference
from sage_eval.store.files import write_bytes
from sage_eval.store.record import Role

EDGES = np.geomspace(1e-9, 10.0, 41)
"""Four bins a decade; under 1e-9 nats is the rounding of float32 log-probabilities."""
BANDS = (0, 512, 2_048, 8_192, 32_768, 131_072, 1 << 30)
"""Tokens of context by which KL divergence is shown: damage grows with length."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Histogram(_Record):
    """Token positions by KLD in nats: `counts[i]` from `edges[i]` to `edges[i + 1]`, `below` under the first edge.

    `above` counts those over the last edge.
    """

    edges: list[float]
    counts: list[int]
    below: int
    above: int = 0


class PositionBin(_Record):
    """What is measured, in nats, of the tokens with `low` ≤ tokens of context < `high`."""

    low: int
    high: int
    n: int
    difference: Estimate


class TaskFidelity(_Record):
    """One task's token positions in one arm against the baseline; `k` ids a position were returned.

    `by_position` is the NLL difference (arm − baseline), `kl_by_position` the KL divergence, `excess` what that is more
    than each floor arm's, position by position.
    """

    task: str
    arm: str
    role: Role
    k: int
    statistics: Fidelity
    kld_histogram: Histogram
    by_position: list[PositionBin]
    kl_by_position: list[PositionBin] = []
    excess: dict[str, Estimate] = {}


class FidelityRecord(_Record):
    """`fidelity.json`."""

    schema_version: Literal[1]
    baseline: str
    tasks: list[TaskFidelity]


def histogram(kl: npt.NDArray[np.float64]) -> Histogram:
    """Counts of positions by KLD in nats, [N], between `EDGES`; zeros are below the first."""
    counts, _ = np.histogram(kl, EDGES)
    below, above = int((kl < EDGES[0]).sum()), int((kl > EDGES[-1]).sum())
    return Histogram(edges=EDGES.tolist(), counts=counts.tolist(), below=below, above=above)


def by_position(
    context: npt.NDArray[np.int64],
    base: npt.NDArray[np.float32],
    cand: npt.NDArray[np.float32],
    clusters: npt.NDArray[np.int64],
) -> list[PositionBin]:
    """NLL difference (candidate − baseline, nats) by tokens of context in powers of two, all [N]; no empty bins."""
    bins = []
    power = np.frexp(context)[1] - 1  # floor(log2), exactly
    for exponent in range(int(power.max()) + 1):
        chosen = power == exponent
        if chosen.any():
            difference = paired_difference(-base[chosen], -cand[chosen], clusters=clusters[chosen])
            count = int(chosen.sum())
            bins.append(PositionBin(low=2**exponent, high=2 ** (exponent + 1), n=count, difference=difference))
    return bins


def kl_by_position(
    context: npt.NDArray[np.int64], kl: npt.NDArray[np.float64], clusters: npt.NDArray[np.int64]
) -> list[PositionBin]:
    """Mean KL divergence in nats between `BANDS` of context, all [N]; no empty ones."""
    band, found = np.digitize(context, BANDS) - 1, []
    for index in np.unique(band).tolist():
        chosen = band == index
        value = mean(kl[chosen], clusters=clusters[chosen])
        found.append(PositionBin(low=BANDS[index], high=BANDS[index + 1], n=int(chosen.sum()), difference=value))
    return found


@dataclass(frozen=True)
class Spread:
    """One task's KL divergence position by position: `kl` in nats by arm, rounded to float16; all [N]."""

    doc_ids: npt.NDArray[np.int64]
    documents: npt.NDArray[np.int64]
    context: npt.NDArray[np.int64]
    kl: dict[str, npt.NDArray[np.float16]]


def write_positions(path: Path, tasks: Mapping[str, Spread], arms: Sequence[str]) -> None:
    """Write `divergence.parquet` in one step."""
    import pyarrow as pa
    from pyarrow import parquet

    tables = [
        pa.table({
            "task": pa.array([task] * len(found.context), pa.string()).dictionary_encode(),
            "doc_id": found.doc_ids.astype(np.int32),
            "document": found.documents.astype(np.int32),
            "context": found.context.astype(np.int32),
            **{arm: found.kl[arm] for arm in arms},
        })
        for task, found in tasks.items()
    ]  # fmt: skip
    buffer = io.BytesIO()
    parquet.write_table(pa.concat_tables(tables).unify_dictionaries(), buffer, compression="zstd")
    write_bytes(path, buffer.getvalue())
