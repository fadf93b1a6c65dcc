"""Scores while an arm runs: an item is scored by its task as soon as its last answer is there.

The arm's process listens where lm-eval's own cache would (`add_partial`, which every one of its models calls as answers
arrive) and appends each finished item to `running.jsonl`. That is for people who watch: the run's scores are computed
by lm-eval at the end, from the answers themselves, and whatever fails here is left out there and then.
"""

import contextlib
import dataclasses
import logging
import random
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from sage_eval.compare import metrics
from sage_eval.store.running import Asked, line
from sage_eval.store.samples import Sample, scored

logger = logging.getLogger(__name__)

EVERY_SECONDS = 2.0
"""How often what is finished is written."""
SHARE = 0.05
"""Of an arm's time that scoring may take before its end; items beyond that are not shown."""


@dataclasses.dataclass
class _Item:
    task: str
    requests: list[Any]
    """lm-eval's instances, in their order."""
    answers: list[list[Any]]
    left: int


class RunningScores:
    """Stands in for lm-eval's cache hook. `tasks` are lm-eval's; `chosen` the item numbers of those that were chosen.

    `groups`: see `Asked`. Never raises: a file that cannot be written, or a task that cannot be scored, ends its part.
    """

    dbdict = None
    """Of lm-eval's hook: no cache."""

    def __init__(
        self, path: Path, tasks: Mapping[str, Any], chosen: Mapping[str, Sequence[int]], groups: Mapping[str, str]
    ) -> None:
        self._path, self._tasks, self._chosen, self._groups = path, dict(tasks), chosen, groups
        self._waiting: dict[Any, deque[tuple[_Item, int]]] = defaultdict(deque)
        self._described: dict[str, dict[str, Any]] = {}
        self._lines: list[str] = []
        self._file: TextIO | None = None
        self._begun = self._written = 0.0
        self._spent = 0.0
        path.unlink(missing_ok=True)

    def add_partial(self, attr: str, req: Sequence[Any], res: Any) -> None:
        """One answer: `attr` is the kind of request, `req` its arguments."""
        if not self._begun:
            self._begin()
        if not (queue := self._waiting.get(_key(attr, req))):
            return
        item, place = queue.popleft()
        item.answers[place].append(res)
        item.left -= 1
        now = time.monotonic()
        if not item.left and self._spent <= SHARE * (now - self._begun) + 1:
            self._finish(item)
            self._spent += time.monotonic() - now
        if now - self._written >= EVERY_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is finished so far."""
        self._written = time.monotonic()
        text = "".join(self._lines)
        self._lines.clear()
        if self._file:
            try:
                self._file.write(text)
                self._file.flush()
            except OSError as error:  # a full disk, which the run itself will meet
                logger.info("no running scores: %s: %s", self._path, error.strerror)
                self._end()

    def close(self) -> None:
        """Write the rest and close the file. May be called twice."""
        self.flush()
        self._end()

    def _end(self) -> None:
        file, self._file = self._file, None
        if file:
            with contextlib.suppress(OSError):
                file.close()

    def _begin(self) -> None:
        """By the first answer every task has built its requests."""
        self._begun = time.monotonic()
        counts: Counter[str] = Counter()
        items: dict[str, int] = {}
        for name, task in self._tasks.items():
            grouped: dict[int, list[Any]] = defaultdict(list)
            for instance in task.instances:
                grouped[instance.doc_id].append(instance)
                counts[instance.request_type] += instance.repeats
            items[name] = len(grouped)
            for requests in grouped.values():
                requests.sort(key=lambda request: request.idx)
                left = sum(request.repeats for request in requests)
                item = _Item(name, requests, [[] for _ in requests], left)
                for place, request in enumerate(requests):
                    self._waiting[_key(request.request_type, request.args)].extend([(item, place)] * request.repeats)
        self._described = metrics.describe(
            self._tasks, {name: [{"metrics": list(task.aggregation())}] for name, task in self._tasks.items()}
        )
        kinds = {name: {metric: found["kind"] for metric, found in each.items()} for name, each in
                 self._described.items()}  # fmt: skip
        asked = Asked(items=items, requests=dict(counts), groups=dict(self._groups), kinds=kinds)
        with contextlib.suppress(OSError):
            self._file = self._path.open("w", encoding="utf-8")
        self._lines.append(asked.model_dump_json() + "\n")

    def _finish(self, item: _Item) -> None:
        task = self._tasks.get(item.task)
        if task is None or getattr(task, "UNSAFE_CODE", False):
            return
        try:
            with _same_draws():
                self._lines += [line(sample) for sample in self._scored(task, item)]
        except Exception as error:  # whatever a task's own code raises; lm-eval will raise it again
            logger.info("no running score of %s: %r", item.task, error)
            del self._tasks[item.task]

    def _scored(self, task: Any, item: _Item) -> Iterator[Sample]:
        # lm-eval filters and scores the instances themselves at the end: these are copies.
        copies = [
            dataclasses.replace(request, resps=list(answers), filtered_resps={})
            for request, answers in zip(item.requests, item.answers, strict=True)
        ]
        for ensemble in task._filters:
            ensemble.apply(copies)
        described = self._described[item.task]
        cells = (task.get_config("metadata") or {}).get("sage_cell", ())
        first, numbers = copies[0], self._chosen.get(item.task)
        for chosen in first.filtered_resps:
            values = task.process_results(first.doc, [copy.filtered_resps[chosen] for copy in copies])
            for name in values:
                described.setdefault(name, {"aggregation": "mean", "kind": "mean"})
            keep = metrics.keeper(self._described)
            found = {name: score for name in scored(list(values))
                     if (score := keep(item.task, name, values[name])) is not None}  # fmt: skip
            yield Sample(
                task=item.task,
                doc_id=numbers[first.doc_id] if numbers else first.doc_id,
                filter=chosen,
                prompt="",
                metrics=found,
                cell={name: first.doc[name] for name in cells if name in first.doc},
            )


def _key(kind: str, arguments: Sequence[Any]) -> tuple[str, str, str]:
    context, *rest = arguments
    return kind, context, repr(rest)


@contextlib.contextmanager
def _same_draws() -> Iterator[None]:
    """A task that draws lots in scoring must find the generators at the end as if it had not been asked before."""
    import numpy

    states = random.getstate(), numpy.random.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        numpy.random.set_state(states[1])
