"""`looks.json`: of a comparison that stops when it is settled, every look at its items, and why it stopped."""

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict

from sage_eval.statistics.verdict import Kind


class Look(BaseModel):
    """What each arm had answered, by task.

    Once it was judged: `verdicts` by judged task (and candidate, of several), and the `open` tasks that get more items.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float
    items: dict[str, int]
    verdicts: dict[str, Kind] = {}
    open: list[str] = []


class Looks(BaseModel):
    """`items` there are, by task; their order follows from `seed`. `stopped` is None while the run goes on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    seed: int
    items: dict[str, int]
    looks: list[Look] = []
    stopped: Literal["settled", "all items"] | None = None

    def shares(self, tasks: Iterable[str]) -> tuple[float, ...]:
        """Shares of these tasks' items at the looks that brought more of them."""
        names = [task for task in tasks if task in self.items]
        whole = sum(self.items[name] for name in names) or 1
        return tuple(sorted({round(sum(look.items[name] for name in names) / whole, 3) for look in self.looks}))
