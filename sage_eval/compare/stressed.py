"""The checkpoints of arms that run an equal model: a candidate's own is proven, those under outlier stress are made.

`<run folder>/stress/<dose>/` holds whole models and is not published. An arm that is finished needs its checkpoint no
more: without it, what the arm recorded stands for it, whose source is the baseline's model.
"""

import logging
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from sage_eval.compare.doses import dose_of
from sage_eval.config import RunConfig
from sage_eval.errors import DataError, EngineError, PrerequisiteError, UsageError
from sage_eval.store import folder as layout
from sage_eval.store.provenance import describe_model, find_model
from sage_eval.store.spec import ArmSpec

logger = logging.getLogger(__name__)


def with_checkpoints(config: RunConfig, specs: Sequence[ArmSpec], target: Path) -> list[ArmSpec]:
    """`specs` with the arms under stress told their checkpoint and its hash; what is missing is made under `target`.

    Raises what `sage_eval.calibrate.stress.stress` does: a model whose stress would prove nothing is refused. Where
    nobody asked for the arm by name, it is left out instead. `DataError` for a candidate on a checkpoint of its own
    whose logits are not the model's, bit for bit.
    """
    for spec in specs:
        own = spec.model_args["pretrained"]
        if spec.role == "candidate" and own != config.model and not layout.read_arm(target / "arms" / spec.name):
            _apart(_prove, spec.name, config.model, own)
    wanted = [spec for spec in specs if spec.role == "stress"]
    if not wanted:
        return list(specs)
    from sage_eval.calibrate.stress import complete

    told: dict[str, ArmSpec] = {}
    missing: list[ArmSpec] = []
    for spec in wanted:
        arm = layout.read_arm(target / "arms" / spec.name)
        if complete(_folder(target, spec), dose_of(spec.name), spec.model_hash):
            told[spec.name] = _told(spec, target)
            if arm and arm.record.spec.model_hash == told[spec.name].model_hash:
                told[spec.name] = _as_recorded(spec, arm)
        elif arm:
            told[spec.name] = _as_recorded(spec, arm)
        else:
            missing.append(spec)
    left: list[str] = []
    if missing:
        try:
            _apart(_stress, config.model, [dose_of(spec.name) for spec in missing], target, config.data_dir)
        except (DataError, PrerequisiteError, UsageError) as error:
            if any(f"stress={dose_of(spec.name)}" in config.arms for spec in missing):
                raise
            left = [spec.name for spec in missing]
            logger.warning("%s is left out: %s", ", ".join(left), error)
        told |= {spec.name: _told(spec, target) for spec in missing if spec.name not in left}
    return [told.get(spec.name, spec) for spec in specs if spec.name not in left]


def _folder(target: Path, spec: ArmSpec) -> Path:
    return target / "stress" / str(dose_of(spec.name))


def _told(spec: ArmSpec, target: Path) -> ArmSpec:
    folder = _folder(target, spec)
    return _with(spec, str(folder), describe_model(spec.name, folder)["sha256"])


def _as_recorded(spec: ArmSpec, arm: layout.Arm) -> ArmSpec:
    """With the path and hash that a finished arm was told: the run folder may have moved since."""
    recorded = arm.record.spec
    return _with(spec, recorded.model_args["pretrained"], recorded.model_hash)


def _with(spec: ArmSpec, pretrained: str, model_hash: str) -> ArmSpec:
    arguments = {**spec.model_args, "pretrained": pretrained}
    return spec.model_copy(update={"model_hash": model_hash, "model_args": arguments})


def _apart(task: Callable[..., None], *arguments: Any) -> None:
    """In a process of its own, which gives the GPU back when it ends: the engines want all of it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            pool.submit(task, *arguments).result()
        except BrokenProcessPool:
            raise EngineError(
                "the work on an equal checkpoint was ended from outside; out of memory? The model is run once in "
                "transformers for it; repeat the command to resume"
            ) from None


def _prove(arm: str, model: str, own: str) -> None:
    from sage_eval.calibrate.capture import same_function
    from sage_eval.calibrate.stress import PROVEN
    from sage_eval.calibrate.text import calibration
    from sage_eval.data import tasks_dir

    folder = find_model(model)
    [ids] = calibration(folder, tasks_dir() / "prose" / "text.txt", tokens=PROVEN).windows
    try:
        same_function(folder, find_model(own), ids)
    except DataError:
        raise DataError(
            f"arm {arm}: {own} is not the function that {model} is: on {PROVEN} tokens of text their logits differ in "
            "bf16; a candidate's own checkpoint is one that `sage-eval balance` makes"
        ) from None


def _stress(model: str, scales: list[int], target: Path, data_dir: Path | None) -> None:
    from sage_eval.calibrate.stress import stress
    from sage_eval.data.folder import use_data

    use_data(data_dir)
    stress(model, scales, target)
