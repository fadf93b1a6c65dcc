"""How far is each layer's attention output from the baseline's, and why?

Two cells. `same inputs` runs in the baseline's engine: the other arms' kernels are called with the q, k and v that the
baseline's layers got, so one run yields the rows of all arms. `own inputs` runs each arm in an engine of its own or,
with `--one-engine`, its kernel in the baseline's engine. The baseline's outputs are temporary (2 bytes × layers ×
tokens × heads × head size on disk), so the baseline runs in every command that adds an arm.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from sage_eval.arms.spec import ArmSpec
from sage_eval.arms.worker import Worker
from sage_eval.engine.options import SAGE
from sage_eval.errors import EngineError, UsageError
from sage_eval.measure.base import Instrument, Session, TextPlan, View
from sage_eval.measure.drift import lines
from sage_eval.measure.drift.lines import OTHER, OWN, SAME, Cell, Kernel
from sage_eval.measure.drift.record import Drift, keys, layers
from sage_eval.measure.drift.view import view
from sage_eval.store.record import Record

UNKNOWN = "this backend's kernel cannot be called outside of its own engine"


class DriftPlan(TextPlan):
    """What the probe is asked."""

    prompts: int = Field(8, ge=1, description="articles of WikiText-2's test set")
    tokens: int = Field(2048, ge=128, description="tokens of each")
    one_engine: bool = Field(
        False, description="run the arms' kernels in the baseline's engine: one start for all arms"
    )


class DriftProbe(Instrument[DriftPlan, Drift]):
    """Compare each layer's attention output with the baseline's, on the same inputs and in each arm's own run."""

    kind, title = "drift", "Activation drift"
    plan, row = DriftPlan, Drift
    worker = "sage_eval.measure.drift.worker:DriftWorker"
    needs_baseline = True

    def check(self, plan: DriftPlan, model: Path) -> None:
        """Refuse what the hook cannot follow."""
        for arm in plan.arms:
            options = self.options(plan, model, arm)
            for name in ("tp_size", "dp_size", "pp_size"):
                if options.engine.get(name, 1) != 1:
                    raise UsageError(f"{name}={options.engine[name]}: drift is measured on one GPU; leave {name} out")
            if options.mode != "fidelity":
                raise UsageError("mode=throughput cuts prompts and caches prefixes; drift is measured on whole ones")
            if not options.engine["disable_cuda_graph"]:
                raise UsageError("disable_cuda_graph=False: nothing is seen of what runs inside a graph; leave it out")

    def settings(self, plan: DriftPlan) -> dict[str, Any]:
        asked = plan.model_dump(include={"prompts", "tokens", "seed", "model_args"})
        return {**asked, "text": "WikiText-2 test, the first tokens of articles", "baseline": plan.baseline_name()}

    def arguments(self, plan: DriftPlan) -> dict[str, Any]:
        """Whole prompts, one prefill each, and no graph, in which the hook would not run."""
        fixed = {"mode": "fidelity", "disable_cuda_graph": True, "random_seed": plan.seed}
        return {**fixed, "max_length": plan.tokens + 1}

    def cells(self, plan: DriftPlan) -> Sequence[Cell]:
        return [SAME, OWN]

    def order(self, session: Session[DriftPlan, Drift], arm: ArmSpec) -> dict[str, Any]:
        """With what its hook is told; the prompts are in a file, which the hook reads too."""
        from sage_eval.data.wikitext import first_tokens
        from sage_eval.engine.tokens import Tokens

        plan, baseline = session.plan, session.turns.baseline
        if not (path := session.scratch / lines.PROMPTS).exists():
            encode = Tokens.load(str(session.model), add_bos=None, prefix=None).encode
            np.save(path, np.array(first_tokens(encode, plan.prompts, plan.tokens), dtype=np.int32))
        mine = arm.name == baseline
        kernels = [self._kernel(session, each) for each in plan.arms if each.name != baseline] if mine else []
        watch = lines.Watch(folder=session.scratch, arm=arm.name, is_baseline=mine, kernels=kernels)
        return {**super().order(session, arm), "watch": watch.model_dump(mode="json")}

    def run(self, session: Session[DriftPlan, Drift], cell: str, names: Sequence[str]) -> Iterator[Drift]:
        """In the baseline's engine the rows of every arm whose kernel runs there; in another one the arm's own."""
        block = session.block(names)
        for name in names:
            rows = self._same if cell == SAME else self._own
            found = session.turns.each([name], lambda worker, rows=rows: rows(session, worker))  # type: ignore[misc]
            for row in found.get(name, []):
                yield row.model_copy(update={"block": block})

    def view(self, record: Record[Drift]) -> View:
        return view(record, self.title)

    def _same(self, session: Session[DriftPlan, Drift], worker: Worker) -> list[Drift]:
        backend = worker.ask("serve")
        found = list(lines.read(session.scratch))
        if not found:
            raise EngineError(
                f"{worker.name}: the hook saw no attention layer; SGLang has this model's under other names"
            )
        mine = _row(session, SAME, worker.name, backend=backend, keys=keys(found))
        others = [arm.name for arm in session.plan.arms if not session.done(arm.name, SAME) and arm.name != worker.name]
        errors = {line.arm: line.error for line in found if line.error}
        asked = {line.arm for line in found if line.sums}
        errors = {name: UNKNOWN for name in others if name not in asked} | errors
        return [
            mine,
            *(
                Drift(arm=name, cell=SAME, block=0, error=errors[name]) if name in errors else _row(session, SAME, name)
                for name in (*others, OTHER)
            ),
        ]

    def _own(self, session: Session[DriftPlan, Drift], worker: Worker) -> list[Drift]:
        """The arm's own run; of the baseline the engine once more, then with other kernels in place of its own."""
        rows = [_row(session, OWN, worker.name, backend=worker.ask("serve"))]
        if worker.name == session.turns.baseline:
            errors = {row.arm: row.error for row in session.record.rows if row.cell == SAME}
            names = [OTHER, *(arm.name for arm in session.plan.arms if session.plan.one_engine)]
            for name in names:
                if name != worker.name and not errors[name] and not session.done(name, OWN):
                    worker.ask("serve", turn=name)
                    rows.append(_row(session, OWN, name, shared=True))
        return rows

    def _kernel(self, session: Session[DriftPlan, Drift], arm: ArmSpec) -> Kernel:
        """An arm's prefill, for the baseline's engine to call."""
        options = self.options(session.plan, session.model, arm)
        backend = options.engine.get("prefill_attention_backend") or options.engine.get("attention_backend")
        attention = options.attention if backend == SAGE else None
        settings = attention.model_dump(mode="json", exclude_none=True) if attention else None
        return Kernel(arm=arm.name, backend=str(backend), settings=settings)


def _row(session: Session[DriftPlan, Drift], cell: Cell, arm: str, **more: Any) -> Drift:
    """What the hook has found so far."""
    found = [line for line in lines.read(session.scratch) if (line.cell, line.arm) == (cell, arm)]
    prompts = session.plan.prompts
    return Drift(
        arm=arm, cell=cell, block=0, layers=layers(found, prompts), exact=layers(found, prompts, "exact"), **more
    )
