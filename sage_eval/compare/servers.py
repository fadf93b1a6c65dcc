"""With `--servers`: the server of an arm is asked what `sage-eval quick` asks, once its tasks are answered."""

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sage_eval.errors import DataError, EngineError
from sage_eval.measure.quick.record import QuickRecord
from sage_eval.store.files import read_record, write_json
from sage_eval.store.folder import QUICK, SPEC, Arm, Run
from sage_eval.store.spec import ArmSpec

if TYPE_CHECKING:
    from sage_eval.engine.launch import ServedEngine


def asked(spec: ArmSpec) -> bool:
    """Whether this arm's server is asked: the ones that are compared, and `repeat`, which says what noise does."""
    return bool(spec.model_args.get("serve")) and (spec.role in ("baseline", "candidate") or spec.name == "repeat")


def ask(server: "ServedEngine", folder: Path) -> dict[str, float]:
    """Ask, unless the folder has the answer, and write it there; what it took, for the arm's `seconds`.

    `EngineError` where the server has ended meanwhile: what its arm answered is kept, and the next call asks again.
    """
    from sage_eval.measure.quick.plan import QuickPlan
    from sage_eval.measure.quick.run import check

    found = None
    with contextlib.suppress(DataError):
        found = read_record(QuickRecord, folder / QUICK)
    if found is None:
        with server.explained():
            found, _ = check(QuickPlan(base_url=server.url), _say)
            if error := found.failed.get("end"):
                raise EngineError(error)
        write_json(folder / QUICK, found.model_dump(mode="json"))
    return {"quick": found.seconds}


def _say(line: str) -> None:
    sys.stderr.write(f"quick: {line}\n")


def forget(spec: ArmSpec, folder: Path) -> None:
    """Delete what was found of another arm's server; an earlier look at fewer items is the same arm's."""
    with contextlib.suppress(DataError):
        before = read_record(ArmSpec, folder / SPEC)
        if _whole(before).fingerprint() == _whole(spec).fingerprint():
            return
    (folder / QUICK).unlink(missing_ok=True)


def _whole(spec: ArmSpec) -> ArmSpec:
    return spec.model_copy(update={"samples": {}, "limit": None})


def record(arm: Arm) -> QuickRecord | None:
    """What was found of an arm's server; None where it was not asked. `DataError` where it is lost or damaged."""
    return read_record(QuickRecord, arm.folder / QUICK) if asked(arm.record.spec) else None


def records(run: Run) -> dict[str, QuickRecord]:
    """By arm, baseline first; empty for a run without servers."""
    return {name: found for name, arm in run.arms.items() if (found := record(arm))}
