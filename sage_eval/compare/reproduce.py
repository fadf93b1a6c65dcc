"""A run made again from its folder: the same configuration here, and which of its numbers agree."""

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import try_to_load_from_cache

from sage_eval.compare.fetch import fetch
from sage_eval.compare.spec import contents, data_hash
from sage_eval.compare.tasks import task_files
from sage_eval.config import RunConfig
from sage_eval.data.prepare import prepare
from sage_eval.errors import UsageError
from sage_eval.statistics.estimate import Estimate
from sage_eval.store import manifest as manifests
from sage_eval.store.comparison import Comparison, TaskComparison
from sage_eval.store.files import validate
from sage_eval.store.folder import MANIFEST, Run
from sage_eval.store.provenance import describe_model, find_model
from sage_eval.store.spec import ArmSpec

CLOSE = 1e-3
"""Numbers without an interval agree within this share of themselves, a difference within this share of the score that
it is of (another processor rounds otherwise, which moves a small difference by its size), a divergence within a tenth.
"""
_SETS = {"wikitext": "wikitext2", "mmlu": "mmlu"}
"""Parts of a data folder by what the names of their tasks contain."""


def configuration(run: Run, **changes: Any) -> RunConfig:
    """What `run` was told, with the seeds; `changes` (model, data_dir, output, parallel) that are not None replace it.

    `DataError` where the run was told something that this version does not know, `UsageError` where its data are not
    here.
    """
    # What the tasks read from the environment was part of the question.
    os.environ.update(next(iter(run.arms.values())).record.spec.environment)
    given = {name: value for name, value in changes.items() if value is not None}
    # By name: which arms calibrate every comparison is another version's business.
    extra = [arm.name for arm in run.arms.values() if arm.record.spec.role not in ("baseline", "candidate")]
    named = {"calibrate": False, "arms": [re.sub("^(stress|floor)-", r"\1=", name) for name in extra]}
    told = {**run.manifest.arguments, **named, "output": None, **given}
    config = validate(RunConfig, told, run.folder / MANIFEST)
    if config.data_dir and not config.data_dir.expanduser().is_dir() and "data_dir" not in given:
        raise UsageError(
            f"the run read its data from {config.data_dir}, which is not here: give --data-dir, a folder that has them "
            "or is to be filled"
        )
    typed = {*run.manifest.given, *given} & RunConfig.model_fields.keys()
    return RunConfig.model_construct(_fields_set=typed, **dict(config))


def fill(config: RunConfig) -> None:
    """Fetch the data that `config`'s tasks read into its data folder, where that is not there yet."""
    if config.data_dir and not config.data_dir.expanduser().is_dir():
        sets = [name for word, name in _SETS.items() if any(word in task for task in config.tasks)]
        prepare(config.data_dir, datasets=sets)
        fetch(config.data_dir, config.tasks, str(find_model(config.model)), config.task_args)


@dataclass(frozen=True)
class Outlook:
    """What making a run again takes: bytes to fetch of the model and of the new folder, seconds as they were then."""

    differs: list[tuple[str, str, str]]
    download: int
    folder: int
    seconds: float
    arms: int

    def text(self) -> str:
        """The same for people."""
        fetched = f"{self.download / 1e9:.1f} GB of the model to fetch" if self.download else "the model is here"
        minutes = f"{self.seconds / 60:.1f} min for {self.arms} arms, one after the other"
        return f"Then it took {minutes}. Disk: {self.folder / 1e6:.1f} MB for the folder; {fetched}."


def outlook(run: Run, config: RunConfig) -> Outlook:
    """What running `config`, which is `run`'s, takes here; nothing is fetched."""
    here = Path(config.model).expanduser().is_dir() or isinstance(
        try_to_load_from_cache(config.model, "config.json"), str
    )
    model = describe_model(config.model, find_model(config.model)) if here else run.manifest.model
    now = manifests.collect(config.model_dump(mode="json"), [], run.manifest.arms, model, run.manifest.command)
    return Outlook(
        differs=manifests.differing(run.told, (now, _told_here(run, config))),
        download=0 if here else run.manifest.model["bytes"],
        folder=sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file()),
        seconds=sum(sum(arm.record.seconds.values()) for arm in run.arms.values()),
        arms=len(run.arms),
    )


def _told_here(run: Run, config: RunConfig) -> Iterator[ArmSpec]:
    """What the arms of `run` would be told here, as far as files decide it; data that are yet to be fetched say so."""
    there = config.data_dir is None or config.data_dir.expanduser().is_dir()
    data = data_hash(config) if there else {"data_dir": "to be fetched"}
    files = task_files(config.tasks, config.include_path)
    for arm in run.arms.values():
        spec = arm.record.spec
        here = {"data_dir": config.data_dir, "task_files": files, "contents": data | contents(spec.model_args)}
        yield spec.model_copy(update=here)


@dataclass(frozen=True)
class Number:
    """One number of a run, then and now; None where a run has none. Perplexities are in natural logarithms."""

    task: str
    metric: str
    of: str
    then: Estimate | None
    now: Estimate | None
    close: float = 1e-6
    """By how much two values without an interval may differ whatever they are."""

    @property
    def agrees(self) -> bool:
        """Whether both 95 % intervals have a value in common, or, where one is missing, the values are close."""
        if self.then is None or self.now is None:
            return False
        if None in (self.then.low, self.then.high, self.now.low, self.now.high):
            return math.isclose(self.then.value, self.now.value, rel_tol=CLOSE, abs_tol=self.close)
        lows, highs = (self.then.low, self.now.low), (self.then.high, self.now.high)
        return max(low for low in lows if low is not None) <= min(high for high in highs if high is not None) + 1e-9


def agreement(then: Comparison, now: Comparison) -> list[Number]:
    """Scores and paired differences of the candidates in both comparisons, groups without their members."""
    before, after = (dict(_rows(comparison)) for comparison in (then, now))
    numbers = []
    for key in dict.fromkeys([*before, *after]):
        rows = before.get(key), after.get(key)
        sides: tuple[Literal["baseline", "candidate", "difference"], ...] = ("baseline", "candidate", "difference")
        for side in sides:
            old, new = (getattr(row, side) if row else None for row in rows)
            name = key[0] if side == "candidate" else side
            numbers.append(Number(key[1], key[2], name, old, new, _close(rows[0], side)))
    return numbers


def _close(row: TaskComparison | None, side: str) -> float:
    if row is None or (row.kind != "kl" and side != "difference"):
        return Number.close
    return 0.1 * row.candidate.value if row.kind == "kl" else CLOSE * abs(row.baseline.value)


def _rows(comparison: Comparison) -> Iterator[tuple[tuple[str, str, str], TaskComparison]]:
    for pair in comparison.pairs:
        for row in pair.tasks if pair.role == "candidate" else ():
            if row.group or row.parent is None:
                yield (pair.candidate, row.task, row.metric), row
