"""Full next-token distributions of several arms at sampled positions, and greedy texts.

prompts → tap (in the scheduler's process) → chunks on disk → reduce → summary (in the arm's process) → a row

The distributions take positions × vocabulary × 2 bytes on disk until the command ends, so the baseline runs in every
command that adds an arm.
"""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sage_eval.arms.spec import ArmSpec
from sage_eval.arms.turns import SharedError
from sage_eval.arms.worker import Worker
from sage_eval.errors import PrerequisiteError, UsageError
from sage_eval.measure.base import Instrument, Session, View
from sage_eval.measure.logits.plan import Asked, LogitsPlan, Work
from sage_eval.measure.logits.record import Logits
from sage_eval.measure.logits.view import view
from sage_eval.store.record import Record


class LogitsProbe(Instrument[LogitsPlan, Logits]):
    """Compare the next-token distributions of the whole vocabulary, and greedy texts, of several arms."""

    kind, title = "logits", "Full next-token distributions"
    plan, row = LogitsPlan, Logits
    worker = "sage_eval.measure.logits.worker:LogitsWorker"
    needs_baseline = True

    def check(self, plan: LogitsPlan, model: Path) -> None:
        """Refuse prefill graphs, too few positions, and a disk without room for the distributions."""
        for arm in plan.arms:
            engine = self.options(plan, model, arm).engine
            if not (engine.get("disable_cuda_graph") or engine.get("disable_prefill_cuda_graph")):
                raise UsageError(
                    "disable_cuda_graph=False: in a prefill graph prompts cannot be told apart; leave it out, or add "
                    "disable_prefill_cuda_graph=True"
                )
        needed = Work.of(model, plan).bytes_on_disk
        folder = plan.scratch or Path(tempfile.gettempdir())
        if (free := shutil.disk_usage(folder).free) < needed * 9 // 8:
            raise PrerequisiteError(
                f"{folder} has {free / 2**30:.1f} GiB free, the distributions take {needed / 2**30:.1f}: give "
                "--scratch on a larger disk, or lower --positions"
            )

    def settings(self, plan: LogitsPlan) -> dict[str, Any]:
        chosen = plan.model_dump(include=Asked.model_fields.keys() - {"text"})
        texts = ", ".join(path.name for path in plan.text) or "WikiText-2 test"
        return {**chosen, "texts": texts, "baseline": plan.baseline_name(), "model_args": plan.model_args}

    def arguments(self, plan: LogitsPlan) -> dict[str, Any]:
        """Each prompt is prefilled once and few tokens are decoded: capturing graphs takes longer than it saves."""
        return {"disable_cuda_graph": True}

    def cells(self, plan: LogitsPlan) -> Sequence[str]:
        """One: an arm serves everything in one engine."""
        return ["all"]

    def order(self, session: Session[LogitsPlan, Logits], arm: ArmSpec) -> dict[str, Any]:
        """With the work to do, and the arm's own folder for distributions."""
        work = session.plan.model_dump(mode="json", include=set(Asked.model_fields))
        return {**super().order(session, arm), "work": work, "folder": str(_folder(session, arm.name))}

    def run(self, session: Session[LogitsPlan, Logits], cell: str, names: Sequence[str]) -> Iterator[Logits]:
        """One arm's distributions; the baseline's stay on disk for the others."""
        block, baseline = session.block(names), session.turns.baseline

        def serve(worker: Worker) -> dict[str, Any]:
            base = None if worker.name == baseline else str(_folder(session, baseline))
            role = session.record.arms[worker.name].role
            try:
                answer: dict[str, Any] = worker.ask(
                    "serve", base=base, arm=worker.name, role=role, texts=session.record.settings["texts"]
                )
            except PrerequisiteError as error:  # a full disk, which the next arm would meet too
                raise SharedError(str(error)) from error
            return answer

        for name, answer in session.turns.each(names, serve).items():
            yield Logits(arm=name, cell=cell, block=block, **answer)

    def view(self, record: Record[Logits]) -> View:
        return view(record, self.title)


def _folder(session: Session[LogitsPlan, Logits], arm: str) -> Path:
    return session.scratch / str([spec.name for spec in session.plan.arms].index(arm))
