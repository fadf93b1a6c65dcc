"""How fast are evaluations? Three parts, each of which answers it from another side.

*evaluation*: the same tasks through several lm-eval models on the same weights. *rate*: scoring of long prompts beside
the same engine's plain prefill of them. *client*: memory of the client by number of requests.

The parts have different arms (lm-eval models; engines in a mode; a client) and different workers, so this is a
`Measurement` with its own control flow, not an `Instrument`. Plan, record, workers, turns and tables are the shared
ones.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, PositiveInt

from sage_eval.arms import gpu
from sage_eval.arms.shape import SHAPES, vocabulary
from sage_eval.arms.spec import role
from sage_eval.arms.turns import Say, Turns
from sage_eval.arms.worker import Worker
from sage_eval.engine.options import ArmOptions
from sage_eval.errors import SageEvalError, UsageError
from sage_eval.measure.base import Arms, Measurement, Pairs, Session, TextPlan, View, at_work, introduce, take_up
from sage_eval.measure.scoring.models import LmModel, absent, add_tokenizer, has_tokenizer, lm_arguments
from sage_eval.measure.scoring.rows import Client, Part, PartName, Round, Task, random_weights
from sage_eval.measure.scoring.view import failures, view
from sage_eval.parsing import parse_pairs, split
from sage_eval.store import record as records
from sage_eval.store.record import ArmEntry, Record, Role

REFERENCE = "hf"
"""Shares no engine with the others."""
_HERE = "sage_eval.measure.scoring.worker"
_EVERY: Sequence[PartName] = ("evaluation", "rate", "client")


class ScoringPlan(TextPlan):
    """What `bench scoring` is asked."""

    arms: Arms = Field(
        "triton", validate_default=True, description="BACKEND or PREFILL+DECODE, settings after a colon: fa3,sage_attn"
    )
    baseline: str | None = Field(
        None, description=f"evaluation: the model whose answers are the reference [default: {REFERENCE}]"
    )
    shape: str | None = Field(None, description=f"random weights of a published shape: {', '.join(SHAPES)}")
    tokenizer: str | None = Field(None, description="with --shape: the model whose tokenizer the evaluation uses")
    parts: Annotated[tuple[PartName, ...] | None, BeforeValidator(split)] = Field(
        None, description="of evaluation, rate, client; default: all; rate,client where there is no tokenizer"
    )
    models: Annotated[tuple[LmModel, ...], BeforeValidator(split)] = Field(
        get_args(LmModel), min_length=1, description="evaluation: lm-eval models to compare, on the first of --arms"
    )
    tasks: Annotated[dict[str, PositiveInt], BeforeValidator(parse_pairs)] = Field(
        {"sage_mmlu_anatomy": 135, "sage_wikitext": 8, "sage_retrieval_single": 20},
        min_length=1,
        description="evaluation: TASK=DOCUMENTS,…; of a group, so many documents of each of its tasks",
    )
    task_args: Pairs = Field(default_factory=dict, description="evaluation: name=value,… for the tasks")
    window: int = Field(4096, ge=64, description="evaluation: longest text in one piece, in tokens")
    prompts: int = Field(400, ge=1, description="rate: prompts of a pass")
    prompt_tokens: int = Field(700, ge=8, description="rate: tokens of a prompt, on average")
    rounds: int = Field(3, ge=1, description="rate: passes of each kind")
    modes: Annotated[tuple[Literal["fidelity", "throughput"], ...], BeforeValidator(split)] = Field(
        ("fidelity",), min_length=1, description="rate: fidelity, throughput, or both"
    )
    requests: Annotated[tuple[PositiveInt, ...], BeforeValidator(split)] = Field(
        (10_000, 100_000), min_length=1, description="client: numbers of requests"
    )

    def baseline_name(self) -> str:
        """Of the reference model."""
        if self.baseline is not None and self.baseline not in self.models:
            raise UsageError(f"--baseline {self.baseline} is none of the models {', '.join(self.models)}")
        return self.baseline or REFERENCE

    def parts_for(self, model: Path) -> Sequence[PartName]:
        """The parts to measure of the model in this folder."""
        return self.parts or (_EVERY if has_tokenizer(model) else _EVERY[1:])


_Jobs = dict[str, Callable[[], Worker]]
"""How each arm's worker is started."""
_Session = Session[ScoringPlan, Part]


class Scoring(Measurement[ScoringPlan, Part]):
    """Time evaluations: this adapter beside other lm-eval models, scoring beside plain prefill, and the client alone.

    --parts chooses: `evaluation` (same tasks, same weights, one process each, equal answers required except with random
    weights), `rate` (uncached tokens per second as a share of the same engine's without log-probabilities) and `client`
    (its memory by number of requests). To see the prefix cache at work, give a large subject whole: on a GPU its first
    20,000 tokens or so are in flight together and find nothing there.
    """

    kind, title = "scoring", "Evaluation throughput"
    plan, row = ScoringPlan, Part

    def check(self, plan: ScoringPlan, model: Path) -> None:
        """Refuse an evaluation without a tokenizer, and arms that cannot be."""
        if plan.tokenizer:
            if not plan.shape:
                raise UsageError("--tokenizer is for --shape: a model folder has its own")
            add_tokenizer(plan.tokenizer, model)
        if "evaluation" in plan.parts_for(model) and not has_tokenizer(model):
            raise UsageError(
                f"{plan.shape or model.name} has no tokenizer for the tasks: give --tokenizer, or --parts rate,client"
            )
        for arm in plan.arms:
            ArmOptions.from_arguments(str(model), **plan.model_args, **arm.arguments)

    def settings(self, plan: ScoringPlan) -> dict[str, Any]:
        """What tasks and prompts are made of; each arm's entry has the rest."""
        return plan.model_dump(mode="json", include={"model_args", "seed", "task_args", "prompts", "prompt_tokens"})

    def measure(self, plan: ScoringPlan, *, command: str = "", say: Say = lambda _: None) -> tuple[Record[Part], Path]:
        """Measure what the record lacks, part by part. Models and arms that fail are noted; the client alone raises."""
        if not plan.shared_gpu and plan.parts != ("client",):
            gpu.require_idle()  # first of all: what is imported below may open the GPU itself
        plan, model, record, path = take_up(self, plan, command)
        record.rows = [row for row in record.rows if not row.error]
        logs = path.parent / "logs"
        jobs: dict[PartName, _Jobs] = {part: {} for part in plan.parts_for(model)}
        if "evaluation" in jobs:
            jobs["evaluation"] = _models(plan, model, record, logs)
        if "rate" in jobs:
            jobs["rate"] = _engines(plan, model, record, logs)
        every = {name: job for part in jobs.values() for name, job in part.items()}
        turns = Turns(list(every), "", record.arms, lambda name: every[name](), say, total=plan.total)
        session = Session(plan, model, record, turns, scratch=logs, logs=logs, say=say)
        work = {"evaluation": _evaluate, "rate": _rate, "client": _client}
        with at_work(path, list(every), (), record), turns:
            try:
                for row in chain.from_iterable(work[part](session, names) for part, names in jobs.items()):
                    record.rows.append(row)
                    records.write(path, record)
            finally:
                records.write(path, record)
        return record, path.parent

    def view(self, record: Record[Part]) -> View:
        return view(record, self.title)

    def failed(self, record: Record[Part], plan: ScoringPlan) -> bool:
        """Whether anything in the record has failed, answers that are not the reference's included."""
        return bool(failures(record))


def _models(plan: ScoringPlan, model: Path, record: Record[Part], logs: Path) -> _Jobs:
    """The lm-eval models of the evaluation that can run here; each gets its place in the record."""
    random, backend = random_weights(record.provenance.model), plan.arms[0].arguments
    shared = {**({"load_format": "dummy"} if random else {}), **plan.model_args}
    jobs: _Jobs = {}
    for name in plan.models:
        part: Role = "baseline" if name == record.baseline else "candidate"
        if reason := absent(name, random=random):
            record.arms.setdefault(name, ArmEntry(role=part, arguments={}, engine={"absent": reason}))
            continue
        options = ArmOptions.from_arguments(str(model), mode="throughput", **backend)
        environment = options.environment() if name == "sglang" else {}
        arguments = lm_arguments(name, str(model), plan.window, backend, shared)
        # A record is published: it does not say where somebody's model lies.
        told = {**arguments, "pretrained": record.provenance.model["name"]}
        _enter(record, name, part, told | ({"environment": environment} if environment else {}))
        order = {"name": name, "model": str(model), "arguments": arguments}
        jobs[name] = partial(Worker, name, f"{_HERE}:EvaluatedModel", order, logs, environment=environment)
    return jobs


def _engines(plan: ScoringPlan, model: Path, record: Record[Part], logs: Path) -> _Jobs:
    """The engines to be rated, by arm and mode."""
    random = random_weights(record.provenance.model)
    jobs: _Jobs = {}
    for arm in plan.arms:
        for mode in plan.modes:
            arguments = {
                "mode": mode,
                "max_length": 2 * plan.prompt_tokens + 8,
                "disable_cuda_graph": True,
                **({"load_format": "dummy", "skip_tokenizer_init": True} if random else {}),
                **plan.model_args,
                **arm.arguments,
            }
            name, order = f"{arm.name}/{mode}", {"model": str(model), "arguments": arguments}
            _enter(record, name, role(ArmOptions.from_arguments(str(model), **arguments)), arguments)
            jobs[name] = partial(Worker, name, f"{_HERE}:RatedEngine", order, logs)
    return jobs


def _enter(record: Record[Part], name: str, part: Role, arguments: dict[str, Any]) -> None:
    """Give an arm its place. `UsageError` where its rows are of other arguments."""
    known = record.arms.get(name)
    if known is None or not any(row.arm == name for row in record.rows):
        known = ArmEntry(role=part, arguments=arguments)
    elif known.arguments != arguments:
        raise UsageError(f"{name} was measured with {known.arguments}, not with {arguments}: choose --output")
    record.arms[name] = known.model_copy(update={"role": part, "error": None})


def _evaluate(session: _Session, jobs: _Jobs) -> Iterator[Part]:
    """Each model answers the tasks that it has not answered yet."""
    turns = session.turns
    cells = {f"evaluation/{task}={limit}": (task, limit) for task, limit in session.plan.tasks.items()}
    for name in jobs:
        lacking = [cell for cell in cells if not session.done(name, cell)]
        if not lacking:
            continue
        if turns.over():
            return
        turns.begin([name], partial(introduce, session), lambda worker: worker.ask("warm_up"))
        for cell in lacking if name in turns else ():
            if turns.over(what=f"{name}, {cell}"):
                return
            yield _task(session, name, cell, *cells[cell])
        turns.keep(())


def _task(session: _Session, name: str, cell: str, task: str, limit: int) -> Part:
    """What the model answers; a task that fails is noted and the next one follows."""
    plan, block = session.plan, session.next_block()
    try:
        answered = session.turns[name].ask(
            "task", task=task, limit=limit, task_args=plan.task_args, seed=plan.seed
        )  # fmt: skip
    except SageEvalError as error:
        session.say(str(error))
        return Part(arm=name, cell=cell, block=block, error=str(error))
    done = Task.model_validate(answered)
    session.say(f"{name}: {task} at {done.rate:.1f} items/s, {done.metric} {done.score:.5g}")
    return Part(arm=name, cell=cell, block=block, task=done)


def _rate(session: _Session, jobs: _Jobs) -> Iterator[Part]:
    """The rounds that each engine lacks, after a short one in which kernels are compiled."""
    plan, turns = session.plan, session.turns
    known = vocabulary(session.record.provenance.model)
    for name in jobs:
        lacking = [index for index in range(plan.rounds) if not session.done(name, f"rate/{index}")]
        if not lacking:
            continue
        if turns.over():
            return
        turns.begin([name], partial(introduce, session))
        for index in (-1, *lacking):
            order: dict[str, Any] = {
                "count": plan.prompts if index >= 0 else max(1, plan.prompts // 4), "tokens": plan.prompt_tokens,
                "vocabulary": known, "seed": plan.seed + 1 + index, "scored_first": bool(index % 2),
            }  # fmt: skip
            answered = turns.each([name], partial(Worker.ask, do="round", **order))
            if answered and index >= 0:
                done = Round.model_validate(answered[name])
                session.say(f"{name}: {done.scored.rate / done.plain.rate:.1%} of the engine's plain rate")
                yield Part(arm=name, cell=f"rate/{index}", block=session.next_block(), round=done)
        turns.guarded(name, lambda worker: turns.cover(worker.name, worker.ask("coverage")))
        turns.keep(())


def _client(session: _Session, _: _Jobs) -> Iterator[Part]:
    """A fresh process for each number of requests."""
    for count in session.plan.requests:
        if session.done("client", cell := f"client/{count}"):
            continue
        with Worker(f"client-{count}", f"{_HERE}:EchoClient", {}, session.scratch) as worker:
            worker.ready()
            answered = worker.ask("score", requests=count, seed=session.plan.seed)
        session.say(f"client: {count:,} requests done")
        yield Part(
            arm="client", cell=cell, block=session.next_block(), client=Client.model_validate(answered)
        )  # fmt: skip
