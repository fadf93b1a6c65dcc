"""`drift.json`: by layer, how far each arm's attention output is from the baseline's and from exact attention.

Two ways: `forced`, the arm's kernel on the q, k and v that the baseline's layer got; `free`, the arm's own engine on
the same prompts, where the error of earlier layers is in the inputs of later ones.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from sage_eval.probes.drift.lines import BASELINE, OTHER, Against, Way
from sage_eval.probes.drift.statistics import Outliers
from sage_eval.runs.files import read_record

DRIFT = "drift.json"

Role = Literal["baseline", "candidate", "control", "floor"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LayerDrift(_Record):
    """One layer over all prompts. a is what is compared with, b the arm's output.

    `relative_l2` = sqrt(Σ(b − a)² / Σa²), its least and largest of single prompts in `range_l2`; `relative_l1` =
    Σ|b − a| / Σ|a|; `rmse` = sqrt(mean (b − a)²); `cosine` is the mean over tokens (all heads of a token one vector),
    `worst_cosine` the least, at `worst_position` of `worst_prompt`; `worst_head` is that of largest relative L2.
    """

    layer: int
    relative_l2: float
    range_l2: tuple[float, float]
    relative_l1: float
    rmse: float
    largest: float
    cosine: float
    worst_cosine: float
    worst_prompt: int
    worst_position: int
    worst_head: int
    worst_head_l2: float


class Series(_Record):
    """All layers of an arm, in one way, against one thing."""

    way: Way
    arm: str
    against: Against
    layers: list[LayerDrift]

    @property
    def mean_l2(self) -> float:
        """Relative L2, the mean over layers."""
        return sum(layer.relative_l2 for layer in self.layers) / len(self.layers)


class LayerKeys(_Record):
    """K of one layer, as it is and after its mean over the sequence is taken off: medians over prompts."""

    layer: int
    raw: Outliers
    smoothed: Outliers


class ArmRecord(_Record):
    """An arm: what it was told, and, where it had an engine of its own, the kernels that computed its prompts there.

    `shared`: its kernel took the place of the baseline's in the baseline's engine instead. `error` says why there is no
    `free` series of it, `forced_error` why no `forced` one.
    """

    name: str
    role: Role
    arguments: dict[str, Any]
    shared: bool = False
    backend: str | None = None
    coverage: dict[str, float] = {}
    start_seconds: float | None = None
    error: str | None = None
    forced_error: str | None = None


class DriftRecord(_Record):
    """The whole file. Arms in order, the baseline first."""

    schema_version: Literal[1] = 1
    created: str
    command: str
    model: dict[str, Any]
    text: str
    prompts: int
    tokens: int
    seed: int
    source: str
    """Hash of `sage_eval/attention`."""
    versions: dict[str, str]
    host: dict[str, Any]
    devices: list[dict[str, Any]]
    arms: list[ArmRecord]
    series: list[Series]
    keys: list[LayerKeys]
    other_error: str | None = None
    """Why `OTHER`, torch's own kernel, has no series."""

    @property
    def baseline(self) -> str:
        """The first arm's name."""
        return self.arms[0].name

    def find(self, way: Way, arm: str, against: Against = BASELINE) -> Series | None:
        """The series, where it was measured."""
        wanted = way, arm, against
        return next((s for s in self.series if (s.way, s.arm, s.against) == wanted), None)

    def share(self, way: Way, arm: str) -> float | None:
        """What of an arm's drift (mean relative L2) an exact 16-bit kernel of another make shows too."""
        own, other = self.find(way, arm), self.find(way, OTHER)
        return other.mean_l2 / own.mean_l2 if own and other and own.mean_l2 else None

    def role(self, name: str) -> Role:
        """The arm's role; what is no arm (`REPEAT`, `OTHER`) is a floor."""
        return next((arm.role for arm in self.arms if arm.name == name), "floor")


def read(path: Path) -> DriftRecord:
    """The record in `path`; `DataError` where it is missing, damaged, or of another version."""
    return read_record(DriftRecord, path)
