"""Does a prompt get the same answer alone, in a batch, in another order, in chunks and after a cached prefix?

Every way of serving is compared with `whole`, the prompt alone and in one piece: the log-probabilities of the prompt's
second half, and the tokens generated after it. What batches and chunks change in the baseline is the floor beside which
the candidate's figures stand; `error` is an arm's own distance from the baseline, both `whole`.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from sage_eval.arms.worker import Worker
from sage_eval.errors import UsageError
from sage_eval.measure.base import Instrument, Row, Session, TextPlan, View
from sage_eval.measure.determinism.figures import drawings
from sage_eval.render.figures import svgs
from sage_eval.render.table import Table
from sage_eval.store.record import Record

WAYS = {
    "whole": "alone, in one piece",
    "repeat": "the same again",
    "batched": "all prompts at once",
    "shuffled": "all at once, in another order",
    "chunked": "alone, `chunked_prefill_size`",
    "prefix": "alone, first half in the prefix cache",
}
CAUSES = {
    "repeat": "chance (the same request twice)",
    "batched": "batch-mates (none with `max_running_requests=1`)",
    "shuffled": "batch-mates (none with `max_running_requests=1`)",
    "chunked": "chunks (none with `chunked_prefill_size=-1`)",
    "prefix": "cached prefixes (none with `disable_radix_cache=True`)",
}
"""What of SGLang a way of serving makes differ, and the setting that avoids it (by what it does; not measured)."""
HOW = (
    "The floor is what batches, chunks and cached prefixes change in the baseline: differences of that size in another "
    "arm, or between two arms, mean nothing."
)
_OWN = {"chunked_prefill_size", "disable_radix_cache"}
_CELL = "ways"


class DeterminismPlan(TextPlan):
    """What the probe is asked."""

    prompts: int = Field(8, ge=1, description="articles of WikiText-2's test set")
    tokens: int = Field(2048, ge=256, description="tokens of each")
    chunk: int = Field(512, ge=1, description="chunked_prefill_size of the chunked way")
    generated: int = Field(32, ge=1, description="greedy tokens after each prompt")


class Way(BaseModel):
    """One way of serving against `whole`: |Δ log-probability| in nats over all scored tokens of all prompts.

    `identical` counts prompts whose every log-probability has the same bits, `same_output` those whose greedy
    continuation is the same.
    """

    way: str
    prompts: int
    identical: int
    mean: float
    largest: float
    same_output: int


class Ways(Row):
    """All ways of one arm; `error` is mean |Δ log-probability| of its `whole` against the baseline's, in nats."""

    backend: str
    ways: list[Way]
    error: float | None


class Determinism(Instrument[DeterminismPlan, Ways]):
    """Serve the same prompts alone, batched, shuffled, chunked and after a cached prefix, and compare the answers."""

    kind, title = "determinism", "Determinism"
    plan, row = DeterminismPlan, Ways
    worker = "sage_eval.measure.determinism.worker:DeterminismWorker"
    needs_baseline = True

    def check(self, plan: DeterminismPlan, model: Path) -> None:
        """Refuse what the probe sets itself, and a chunk that cuts nothing."""
        if plan.chunk >= plan.tokens:
            raise UsageError(f"--chunk {plan.chunk} must be shorter than the prompts ({plan.tokens} tokens)")
        for arguments in (plan.model_args, *(arm.arguments for arm in plan.arms)):
            if taken := _OWN & arguments.keys():
                raise UsageError(f"{', '.join(sorted(taken))}: the probe sets it itself, way by way; leave it out")

    def settings(self, plan: DeterminismPlan) -> dict[str, Any]:
        asked = plan.model_dump(include={"prompts", "tokens", "chunk", "generated", "model_args"})
        return {**asked, "baseline": plan.baseline_name()}

    def arguments(self, plan: DeterminismPlan) -> dict[str, Any]:
        return {"max_length": plan.tokens + plan.generated}

    def cells(self, plan: DeterminismPlan) -> Sequence[str]:
        """One: all ways of an arm are compared with its own `whole`."""
        return [_CELL]

    def run(self, session: Session[DeterminismPlan, Ways], cell: str, names: Sequence[str]) -> Iterator[Ways]:
        """All ways of each arm; its `whole` is left in a file, for the distance to the baseline's."""
        import numpy as np

        from sage_eval.data.wikitext import first_tokens
        from sage_eval.engine.tokens import Tokens

        plan, block, baseline = session.plan, session.block(names), session.turns.baseline
        encode = Tokens.load(str(session.model), add_bos=None, prefix=None).encode
        prompts = first_tokens(encode, plan.prompts, plan.tokens)
        files = {arm.name: session.scratch / f"{place}.npy" for place, arm in enumerate(plan.arms)}

        def serve(worker: Worker) -> dict[str, Any]:
            served: dict[str, Any] = worker.ask(
                "serve", prompts=prompts, chunk=plan.chunk, generated=plan.generated, whole=str(files[worker.name])
            )
            return served

        answers = session.turns.each(names, serve)
        for name, answer in answers.items():
            wholes = [np.load(files[arm]) for arm in (baseline, name)]
            apart = None if name == baseline else float(np.abs(wholes[1] - wholes[0]).mean())
            yield Ways(arm=name, cell=cell, block=block, error=apart, **answer)

    def view(self, record: Record[Ways]) -> View:
        """One row per arm and way, what changes bits, and the arms' distances from the baseline."""
        settings = record.settings
        parts: list[str | Table] = [
            f"{settings['prompts']} prompts of {settings['tokens']:,} tokens; log-probabilities of the second half, "
            f"{settings['generated']} greedy tokens after it; chunks of {settings['chunk']:,}.",
            *(f"**{name} failed:** {arm.error}" for name, arm in record.arms.items() if arm.error),
        ]
        latest = {row.arm: row for row in record.rows}
        rows = [
            (name, f"{way.way}: {WAYS[way.way]}", f"{way.identical}/{way.prompts}", f"{way.mean:.2g}",
             f"{way.largest:.2g}", f"{way.same_output}/{way.prompts}")
            for name, row in latest.items() for way in row.ways
        ]  # fmt: skip
        header = ("arm", "served", "same bits", "mean abs. difference (nats)", "largest", "same output")
        parts.append(Table("", header, rows, names=2))
        parts.append("What changes bits:\n\n" + "\n".join(f"- {name}: {causes(row)}" for name, row in latest.items()))
        errors = [f"{name} {row.error:.2g}" for name, row in latest.items() if row.error is not None]
        if errors:
            parts.append(f"Mean absolute difference from {record.baseline}, both `whole`: {', '.join(errors)} nats.")
        return View(self.title, [*parts, HOW], svgs(drawings(record, latest)))


def causes(row: Ways) -> str:
    """What of SGLang changed a log-probability of any prompt, and the settings that avoid it."""
    found = dict.fromkeys(CAUSES[way.way] for way in row.ways if way.identical < way.prompts)
    if CAUSES["repeat"] in found:  # then whatever else differs may do so for that reason
        return CAUSES["repeat"]
    return ", ".join(found) or "nothing that was tried"
