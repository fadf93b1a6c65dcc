"""One `quick`: asked, judged, and written where that is wanted."""

from collections.abc import Callable
from pathlib import Path

from sage_eval.measure.quick.ask import Asking
from sage_eval.measure.quick.judge import judge
from sage_eval.measure.quick.plan import QuickPlan
from sage_eval.measure.quick.record import QuickRecord
from sage_eval.store.files import read_record, write_json


def check(plan: QuickPlan, say: Callable[[str], None]) -> tuple[QuickRecord, QuickRecord | None]:
    """The record, with its checks, and the earlier one to compare with.

    Raises `PrerequisiteError` where no SGLang server answers, `EngineError` where it is not healthy, `DataError` for a
    file that is no record, and `UsageError` for one of another model.
    """
    earlier = None if plan.against is None else read(plan.against)
    asking = Asking(plan.url, plan.seconds, say)
    try:
        judge(asking.record, earlier)  # refuses another model's before anything is measured
        record = asking.run()
    finally:
        asking.close()
    record.checks = judge(record, earlier)
    if plan.output:
        write_json(plan.output, record.model_dump(mode="json"))
    return record, earlier


def read(path: Path) -> QuickRecord:
    """A record from its file; `DataError` where it is none."""
    return read_record(QuickRecord, path)
