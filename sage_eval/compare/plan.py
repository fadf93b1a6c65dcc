"""`compare --dry-run`: what would be asked, in requests and tokens, and roughly how long it would take.

Only the tasks and the tokenizer are loaded. The time is an estimate: from an earlier run of the same model where there
is one beside the output folder, else from the model's size and the device, and then good to a factor of three at best.
"""

import contextlib
import functools
import io
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from sage_eval.compare import asking, servers
from sage_eval.compare.checks import check_arms, check_names, names_of_tasks
from sage_eval.compare.divergence import name_of
from sage_eval.compare.spec import arms
from sage_eval.compare.tasks import load_tasks
from sage_eval.config import RunConfig
from sage_eval.errors import DataError
from sage_eval.measure.quick.plan import QuickPlan
from sage_eval.render.table import MISSING, Table, markdown
from sage_eval.statistics.equivalence import smallest_margin
from sage_eval.statistics.estimate import Estimate
from sage_eval.store import provenance
from sage_eval.store.comparison import Comparison
from sage_eval.store.files import read_record
from sage_eval.store.folder import ARM, COMPARISON, MANIFEST
from sage_eval.store.manifest import registration

# Prompt tokens a second by device: an upper limit, and useful FLOP/s from which 2 · parameters is a token's share.
_CPU = (1_000.0, 20e9)  # per core
_GPU = (50_000.0, 200e12)
_HOPPER = (50_000.0, 500e12)
_DECODE_SHARE = 0.1  # one generated token takes as long as ten prompt tokens
_START_SECONDS = {"cpu": 35.0, "gpu": 60.0}


_FLIPS = {"choice": 0.01, "generated": 0.03}
"""Share of right-or-wrong answers that differ between arms that should be equal, before a run has measured it."""


class TaskPlan(BaseModel):
    """One leaf task: items, lm-eval's requests, the engine's (those that differ in one last token are one), tokens."""

    task: str
    items: int
    requests: int
    engine_requests: int
    prompt_tokens: int
    longest: int
    new_tokens: int

    @property
    def smallest_margin(self) -> float | None:
        """Of accuracy, 0…1, that so many items can settle; None where answers are not right or wrong, as of texts."""
        # A text is one request without an answer.
        if not self.items or (self.requests == self.items and not self.new_tokens):
            return None
        return smallest_margin(self.items, _FLIPS["generated" if self.new_tokens else "choice"])


SETTLES = (
    "Settles: the smallest margin within which so many items show equal arms to be equal, with a power of 80 %, if {}. "
    "A smaller --margin will end as inconclusive."
)
_ASSUMED = f"{_FLIPS['choice']:.0%} of choices and {_FLIPS['generated']:.0%} of generated answers differ between them"


class Scatter(BaseModel):
    """What an earlier run's floor says of a task: the variance that an item has in the mean difference of equal arms.

    In the metric's unit squared; `scale` and `unit` show it, as in a verdict.
    """

    variance: float
    scale: float = 1.0
    unit: str = ""

    def show(self, items: int) -> str:
        """The smallest margin of `items`."""
        return f"±{self.scale * smallest_margin(items, self.variance):.2g} {self.unit}".rstrip()


class Plan(BaseModel):
    """A comparison before it is run. `new_tokens` are upper limits; seconds are for all arms together."""

    schema_version: int = 1
    tasks: list[TaskPlan]
    groups: dict[str, list[str]] = Field(default_factory=dict)
    """The tasks of each group."""
    arms: int
    calibration: list[str] = Field(default_factory=list)
    """Those of the arms that calibrate the comparison."""
    by_default: list[str] = Field(default_factory=list)
    """Those of them that nobody named: `--no-calibrate` leaves them out."""
    tokens_per_second: float
    rate_from: str
    seconds: float
    registration: str | None = None
    """As the run's manifest will have it."""
    floors: dict[str, Scatter] = Field(default_factory=dict)
    """By task or group, and by name of a text's KL divergence."""
    floors_from: str | None = None
    suite: str | None = None
    servers: list[str] = Field(default_factory=list)
    """The arms whose servers are asked what `sage-eval quick` asks."""

    def text(self) -> str:
        """A Markdown table and the estimate."""
        header = ("task", "items", "requests", "engine requests", "prompt tokens", "longest", "new tokens ≤", "settles")
        rows = []
        for key, task in self._lines():
            name, *numbers = task.model_dump().values()
            rows.append((name, *(f"{number:,}" for number in numbers), self._settles(key, task)))
        text = f"Suite {self.suite}\n\n" * bool(self.suite) + (
            f"{markdown(Table('', header, rows))}\n{self.arms} arms, each of them asked all of this: about "
            f"{_time(self.seconds)} in all, at {self.tokens_per_second:,.0f} prompt tokens/s ({self.rate_from})"
        )
        known = f"they differ as the floor of {self.floors_from} does, where it has the task, else if {_ASSUMED}"
        after = f"\n\n{SETTLES.format(known if self.floors else _ASSUMED)}"
        if self.servers:
            after += (
                f"\n\nServers: each arm is one; {', '.join(self.servers)} are also asked what sage-eval quick asks, "
                f"for at most {_time(QuickPlan().seconds)} each, which is not in the estimate"
            )
        after += f"\n\nItems and margins of this plan: {self.registration}" * bool(self.registration)
        if not self.calibration:
            return text + after
        share = _time(self.seconds * len(self.calibration) / self.arms)
        left_out = "all of them" if self.by_default == self.calibration else ", ".join(self.by_default)
        less = f"; --no-calibrate leaves out {left_out}, and with them most verdicts" * bool(self.by_default)
        costs = f"{', '.join(self.calibration)} calibrate the comparison and take about {share}"
        return f"{text}\nOf these, {costs}{less}{after}"

    def _settles(self, name: str | None, task: TaskPlan) -> str:
        """By the task's own floor, or by that of its group; a text's perplexity, and its divergence."""
        if name is None or not task.items:
            return MISSING
        names = [name, *(group for group, members in self.groups.items() if name in members)]
        found = [self.floors[key] for key in names if key in self.floors][:1]
        shown = [scatter.show(task.items) for scatter in found]
        if not shown and (margin := task.smallest_margin) is not None:
            shown = [f"±{100 * margin:.2g} pp"]
        if beside := self.floors.get(name_of(name)):
            shown.append(f"KLD {beside.show(task.items)}")
        return ", ".join(shown) or MISSING

    def _lines(self) -> Iterator[tuple[str | None, TaskPlan]]:
        """The tasks by their names, each group's before its members, and the total."""
        begun: set[str] = set()
        for task in self.tasks:
            for group, members in self.groups.items():
                if task.task in members and group not in begun:
                    begun.add(group)
                    members_of = [t for t in self.tasks if t.task in members]
                    yield group, _sum(f"{group} ({len(members)} tasks)", members_of)
            yield task.task, task
        yield None, _sum("total", self.tasks)


def _time(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _sum(name: str, tasks: Sequence[TaskPlan]) -> TaskPlan:
    counts = {field: [getattr(task, field) for task in tasks] for field in TaskPlan.model_fields if field != "task"}
    return TaskPlan(task=name, **{n: max(v, default=0) if n == "longest" else sum(v) for n, v in counts.items()})


def _groups(members: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Each group of `members` with its tasks, those of groups in it included; outer groups first."""

    def tasks(name: str) -> list[str]:
        return [task for child in members[name] for task in (tasks(child) if child in members else [child])]

    return dict(sorted(((name, tasks(name)) for name in members), key=lambda group: -len(group[1])))


def plan(config: RunConfig) -> Plan:
    """Count what `config` would ask. Raises like a run would for a missing model, unknown task or damaged data."""
    from sage_eval.data.folder import use_data

    use_data(config.data_dir)
    model = provenance.find_model(config.model)
    devices = provenance.devices()
    specs = arms(config, provenance.describe_model(config.model, model)["sha256"], provenance.versions(), devices)
    check_arms(specs)
    # One progress bar for each of MMLU's 57 subjects, and hints for authors of tasks, would bury the result.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with contextlib.redirect_stderr(io.StringIO()):
        manager, tasks = load_tasks(config.tasks, str(model), config.task_args, config.include_path, config.seed)
        groups = _groups(manager.load(config.tasks)["group_map"])
        check_names(config, *names_of_tasks(tasks, groups))
        asking.prepare(tasks, config, config.seed)
        arguments = {"pretrained": str(model), **config.model_args}
        chat = asking.template(config, arguments)
        tokenizer = asking.tokens(arguments).tokenizer
        counted = []
        for name, task in tasks.items():
            requests = asking.build(name, task, config, chat, config.limit)
            asking.check(config.lm, arguments, requests)
            counted.append(_count(name, tokenizer, requests))
    rate, source = measured_rate(config, model, devices) or _assumed(model, devices)
    work = sum(task.prompt_tokens + task.new_tokens / _DECODE_SHARE for task in counted)
    start = _START_SECONDS["gpu" if devices else "cpu"]
    seconds = len(specs) * (start + work / rate)
    floors, floors_from = measured_floors(config, model, devices) or ({}, None)
    calibrating = [spec.name for spec in specs if spec.role not in ("baseline", "candidate")]
    named = {name.replace("=", "-") for name in config.arms}
    return Plan(
        tasks=counted,
        groups=groups,
        arms=len(specs),
        calibration=calibrating,
        by_default=[name for name in calibrating if name not in named],
        tokens_per_second=rate,
        rate_from=source,
        seconds=seconds,
        registration=registration(config.model_dump(mode="json")),
        floors=floors,
        floors_from=floors_from,
        suite=config.suite,
        servers=[spec.name for spec in specs if servers.asked(spec)],
    )


def _count(name: str, tokenizer: Any, instances: Sequence[Any]) -> TaskPlan:
    is_short = functools.cache(lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 1)
    prompts: set[str] = set()
    new_tokens = 0
    for instance in instances:
        first, *rest = instance.args
        if instance.request_type == "loglikelihood":
            # Answers that are one token long are read from the distribution after their common context.
            short = is_short(rest[0])
            prompts.add(first if short else first + rest[0])
        else:
            prompts.add(first)
        if instance.request_type == "generate_until":
            new_tokens += int(rest[0].get("max_gen_toks", 256))
    lengths = [len(ids) for ids in _encode(tokenizer, prompts)]
    return TaskPlan(
        task=name,
        items=len({instance.doc_id for instance in instances}),
        requests=len(instances),
        engine_requests=len(prompts),
        prompt_tokens=sum(lengths),
        longest=max(lengths, default=0),
        new_tokens=new_tokens,
    )


def _encode(tokenizer: Any, prompts: Iterable[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(list(prompts), verbose=False)["input_ids"]
    return ids


def measured_rate(config: RunConfig, model: Path, devices: list[dict[str, Any]]) -> tuple[float, str] | None:
    """Prompt tokens a second, and whence: of the latest finished arm of this model on such a machine as this one.

    Looks at the runs beside `config.output`; `devices` are this machine's GPUs. None where there is no such arm.
    """
    parent = config.output.parent if config.output else Path("results")
    digest = provenance.describe_model(config.model, model)["sha256"]
    for path in sorted(parent.glob(f"*/arms/*/{ARM}"), key=lambda found: -found.stat().st_mtime):
        try:
            record = json.loads(path.read_text())
            coverage = record["engine"]["coverage"]
            if record["spec"]["model_hash"] == digest and _is_here(path.parents[2] / MANIFEST, devices):
                work = coverage["prompt_tokens"] + coverage["generated_tokens"] / _DECODE_SHARE
                return work / record["seconds"]["evaluate"], f"measured in {path.parents[2]}"
        except (OSError, ValueError, LookupError, TypeError, ZeroDivisionError):
            continue  # another version's run, or half of one: an estimate does without it
    return None


def measured_floors(
    config: RunConfig, model: Path, devices: list[dict[str, Any]]
) -> tuple[dict[str, Scatter], str] | None:
    """By judged task the scatter of its widest floor arm, and whence: the latest run with one, as `measured_rate`."""
    parent = config.output.parent if config.output else Path("results")
    digest = provenance.describe_model(config.model, model)["sha256"]
    for path in sorted(parent.glob(f"*/{COMPARISON}"), key=lambda found: -found.stat().st_mtime):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, DataError):
            manifest = path.parent / MANIFEST
            if json.loads(manifest.read_text())["model"]["sha256"] != digest or not _is_here(manifest, devices):
                continue
            verdict = read_record(Comparison, path).verdict
            found = {
                task.task: Scatter(variance=max(known), scale=task.scale, unit=task.unit)
                for task in (verdict.tasks if verdict else [])
                if (known := [v for floor in task.floors.values() if (v := _variance(floor.difference)) is not None])
            }
            if found:
                return found, str(path.parent)
    return None


def _variance(floor: Estimate) -> float | None:
    """What one item (of a text: one document) adds; of answers with one flip more than was seen."""
    if floor.counts is not None:
        gained, lost, effective = floor.counts
        return (gained + lost + 1) / effective * floor.n / effective
    return None if floor.se is None else floor.se**2 * floor.units


def _is_here(manifest: Path, devices: list[dict[str, Any]]) -> bool:
    """Whether a run was made on such a GPU as the first of `devices`, or, without any, on as many CPU cores."""
    found = json.loads(manifest.read_text())
    if devices and found["devices"]:
        return bool(found["devices"][0]["name"] == devices[0]["name"])
    return not devices and not found["devices"] and found["host"]["cores"] == provenance.host()["cores"]


def _assumed(model: Path, devices: list[dict[str, Any]]) -> tuple[float, str]:
    parameters = sum(path.stat().st_size for path in model.glob("*.safetensors")) / 2
    if devices:
        hopper = devices[0]["compute_capability"].startswith("9")
        limit, flops = _HOPPER if hopper else _GPU
        name = devices[0]["name"]
    else:
        cores = provenance.host()["cores"]
        limit, flops, name = _CPU[0], _CPU[1] * cores, f"{cores} CPU cores"
    rate = min(limit, flops / (2 * parameters)) if parameters else limit
    return rate, f"assumed for {parameters / 1e6:,.0f} M parameters on {name}; good to a factor of three"
