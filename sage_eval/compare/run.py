"""A comparison from configuration to run folder: the arms, then the paired statistics."""

import contextlib
import json
import math
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from sage_eval.arms.gpu import state
from sage_eval.arms.shape import describe
from sage_eval.arms.side_by_side import Job, run_jobs, visible_devices
from sage_eval.arms.turns import OWN, share
from sage_eval.arms.worker import Worker
from sage_eval.compare import distances, servers
from sage_eval.compare.checks import check_arms, check_names, names_of_results, names_of_tasks
from sage_eval.compare.divergence import with_divergence
from sage_eval.compare.looks import until_settled
from sage_eval.compare.pairs import pairs
from sage_eval.compare.spec import arms
from sage_eval.compare.stressed import with_checkpoints
from sage_eval.compare.tasks import load_tasks
from sage_eval.compare.verdicts import verdicts
from sage_eval.compare.worst import keep_prompts
from sage_eval.config import RunConfig
from sage_eval.data.folder import use_data
from sage_eval.errors import DataError, PrerequisiteError, UsageError
from sage_eval.store import folder as layout
from sage_eval.store import manifest as manifests
from sage_eval.store import provenance
from sage_eval.store.files import read_json, read_record, write_json
from sage_eval.store.folder import Arm, Run
from sage_eval.store.lock import lock
from sage_eval.store.spec import ArmSpec

WORKER = "sage_eval.compare.worker:AnswerWorker"


class Display(Protocol):
    """Where progress goes: a terminal, a log, or nowhere. Called from several threads."""

    def arm(self, name: str, backend: str) -> AbstractContextManager[Callable[[str], None]]:
        """Around one arm; yields what takes its current line."""

    def kept(self, name: str, backend: str) -> None:
        """An arm of an earlier call was taken over."""

    def again(self, name: str, why: str) -> None:
        """An arm of an earlier call lacks a part and is run again."""


class Quiet:
    """A `Display` that shows nothing."""

    @contextlib.contextmanager
    def arm(self, name: str, backend: str) -> Iterator[Callable[[str], None]]:
        """Show nothing."""
        yield lambda _line: None

    def kept(self, name: str, backend: str) -> None:
        """Show nothing."""

    def again(self, name: str, why: str) -> None:
        """Show nothing."""


def compare(
    config: RunConfig, *, fresh: bool = False, display: Display | None = None, argv: list[str] | None = None
) -> Run:
    """Run what is not yet finished and return the complete run; its JSON files are written.

    Finished arms with the same fingerprint are taken over, so that an interrupted call is resumed by repeating it; an
    arm that lacks a part is run again. `UsageError` where the folder holds another comparison (unless `fresh`) or
    another command works in it, or whatever an arm fails with.
    """
    display = display or Quiet()
    model = provenance.find_model(config.model)
    described = provenance.describe_model(config.model, model)
    specs = arms(config, described["sha256"], provenance.versions(), provenance.devices())
    target = output_folder(config, specs)
    _check_target(target, fresh)
    new = [spec for spec in specs if fresh or not (target / "arms" / spec.name / layout.ARM).exists()]
    check_arms(new)
    tasks: dict[str, Any] = {}
    if config.until or (new and (config.min or config.margin)):
        use_data(config.data_dir)
        manager, tasks = load_tasks(config.tasks, str(model), config.task_args, config.include_path, config.seed)
        check_names(config, *names_of_tasks(tasks, manager.load(config.tasks)["group_map"]))
    with lock(target):
        if fresh:
            _clear(target)
        specs = with_checkpoints(config, specs, target)

        def answer(samples: dict[str, list[int]] | None = None) -> Run:
            asked = {} if samples is None else {"samples": samples, "limit": None}
            wanted = [spec.model_copy(update=asked) for spec in specs]
            return _answered(config, wanted, described, target, display, argv)

        run = until_settled(config, tasks, target, answer) if config.until else answer()
        for arm in run.arms.values():
            for name in (layout.JOURNAL, layout.RUNNING):
                (arm.folder / name).unlink(missing_ok=True)
        return run


def _answered(
    config: RunConfig,
    specs: Sequence[ArmSpec],
    described: dict[str, Any],
    target: Path,
    display: Display,
    argv: list[str] | None,
) -> Run:
    """The judged run of `specs`, of which those that are not finished are run."""
    found = _finished(target, specs, display)
    manifest = manifests.collect(
        config.model_dump(mode="json"), sorted(config.model_fields_set), [spec.name for spec in specs], described,
        provenance.shell(sys.argv[1:] if argv is None else argv),
    )  # fmt: skip
    if all(found.values()):
        if base := found["baseline"]:
            check_names(config, *names_of_results(base.results))
        # Nothing will run: machine, code and date stay those of the run, only what was asked now is new.
        with contextlib.suppress(DataError):
            asked = manifest.model_dump(include={"command", "arguments", "given", "arms"})
            manifest = layout.read_manifest(target).model_copy(update=asked)
    write_json(target / layout.MANIFEST, manifest.model_dump(mode="json"))
    run_arms([spec for spec in specs if not found[spec.name]], target, display, config.parallel)
    # What was read to see whether it is whole is not read again.
    for spec in specs:
        found[spec.name] = found[spec.name] or layout.read_arm(target / "arms" / spec.name)
    return judge(layout.assemble(target, manifest, found), config.min, config.margin, config.fail_on)


def judge(
    run: Run,
    minimum: Mapping[str, float],
    margin: Mapping[str, float] | None = None,
    fail_on: Sequence[str] = (),
    *,
    keep: bool = True,
) -> Run:
    """The run with its comparison and its distances computed now; they are written into its folder if `keep`."""
    fidelity = distances.measure(run, keep=keep)
    comparison = verdicts(with_divergence(pairs(run), fidelity), minimum, margin, fail_on)
    if keep:
        write_json(run.folder / layout.COMPARISON, comparison.model_dump(mode="json"), indent=None)
        keep_prompts(run, comparison)
        if fidelity:
            write_json(run.folder / layout.FIDELITY, fidelity.model_dump(mode="json"), indent=None)
    return run.judged(comparison, fidelity)


def again(run: Run, *, keep: bool = True) -> Run:
    """`judge` by the minima, margins and failing verdicts that the run itself was given."""
    return judge(run, *(run.manifest.arguments.get(name, {}) for name in ("min", "margin", "fail_on")), keep=keep)


def run_arms(specs: Sequence[ArmSpec], target: Path, display: Display, parallel: int) -> None:
    """Run `specs` in their order, `parallel` at a time, into `target`'s arms; several GPUs are shared out among them.

    The first arm that fails ends the others, and its error is raised: what they answered is kept for the next call.
    """
    wide = any(int(spec.model_args.get(size) or 1) > 1 for spec in specs for size in ("tp_size", "dp_size", "pp_size"))
    cards: Sequence[str | None] = [None] if wide else visible_devices(len(provenance.devices()))
    together = -(-min(parallel, len(specs)) // len(cards))
    run_jobs([_job(s, target / "arms" / s.name, display, card_share(s, together)) for s in specs], parallel, cards)


def card_share(spec: ArmSpec, together: int) -> dict[str, Any]:
    """What an arm's engine is given of a card that `together` of them share; nothing where the user said it, and
    without a GPU. It is no part of the arm: how much of a card was free decides no number.

    Raises `UsageError` where the configuration does not tell the size of the model or of its cache.
    """
    arguments = spec.model_args
    card = state()
    if together < 2 or spec.lm != "sglang-sage" or not card or "free_mib" not in card or {*OWN} & arguments.keys():
        return {}
    sizes = describe(provenance.find_model(arguments["pretrained"]))
    if not {"weight_bytes", "kv_bytes_per_token", "max_position_embeddings"} <= sizes.keys():
        raise UsageError(
            f"--parallel: the memory of {arguments['pretrained']} is not known from its configuration; say what each "
            f"engine may take: --model-args {OWN[0]}=…,{OWN[1]}=…"
        )
    window = int(arguments.get("max_length") or sizes["max_position_embeddings"])
    gpus = int(arguments.get("tp_size") or 1) * int(arguments.get("pp_size") or 1)
    return share(card["free_mib"] << 20, together, sizes, window, gpus)


def _job(spec: ArmSpec, folder: Path, display: Display, given: Mapping[str, Any] = MappingProxyType({})) -> Job:
    def run(device: str | None, check: Callable[[], None]) -> None:
        with display.arm(spec.name, spec.backend or "SGLang's choice") as show:

            def watch(line: str) -> None:
                check()
                show(line)

            order = {"spec": spec.model_dump(mode="json"), "folder": str(folder), "share": dict(given)}
            environment = {"CUDA_VISIBLE_DEVICES": device} if device else None
            with Worker(spec.name, WORKER, order, folder, log=folder / layout.LOG, environment=environment) as worker:
                worker.ready(watch)
                worker.ask("answer", within=math.inf, watch=watch)

    return run


def output_folder(config: RunConfig, specs: list[ArmSpec]) -> Path:
    """`--output`, or a name that the same configuration always gets, so that repeating a command resumes it.

    Calibration arms do not change the name: they can be added to a comparison that is finished.
    """
    if config.output:
        return config.output
    model = re.sub(r"[^A-Za-z0-9.]+", "-", Path(config.model).name).strip("-") or "model"
    decide = [spec.fingerprint() for spec in specs if spec.role in ("baseline", "candidate")]
    digest = sha256(json.dumps([*decide, *([config.until] if config.until else [])]).encode()).hexdigest()[:8]
    tested = re.sub(r"[^\w.+=-]+", "-", "-".join(config.candidate))[:80]
    return Path("results") / f"{model}-{tested}-{digest}"


def _finished(target: Path, specs: Sequence[ArmSpec], display: Display) -> dict[str, Arm | None]:
    """The arms that need not be run, None for the others."""
    found: dict[str, Arm | None] = {}
    for spec in specs:
        try:
            found[spec.name] = _same(target, spec, found.get(specs[0].name))
        except DataError as error:
            found[spec.name] = None
            display.again(spec.name, str(error))
    if all(found.values()) and (why := _without_prompts(target, [arm for arm in found.values() if arm])):
        found[specs[0].name] = None
        display.again(specs[0].name, why)
    for spec in specs:
        arm = found[spec.name]
        if arm and found[specs[0].name] is None and not (arm.folder / layout.SAMPLES).exists():
            found[spec.name] = None
            display.again(spec.name, "its samples are what differs from a baseline that is run again")
        elif arm:
            display.kept(spec.name, spec.backend or "SGLang's choice")
    return found


def _same(target: Path, spec: ArmSpec, base: Arm | None) -> Arm | None:
    """The finished arm of `spec`, every part of which can be read; None where there is none."""
    arm = layout.read_arm(target / "arms" / spec.name, base)
    if arm is None:
        return None
    # Both computed now: a field that a later version adds, with its default, does not make a finished arm another one.
    if arm.record.spec.fingerprint() != spec.fingerprint():
        old, new = arm.record.spec.deciding(), spec.deciding()
        names = [name for name in new if old[name] != new[name]]
        if names == ["samples"] and (target / layout.LOOKS).exists() and len(new["samples"]) == len(old["samples"]):
            return None  # an earlier look's: the journal has its answers
        changed = ", ".join(name if name == "samples" else f"{name}: {old[name]} -> {new[name]}" for name in names)
        raise UsageError(
            f"{target} holds arm {spec.name} of another comparison ({changed}): choose another --output, or --fresh"
        )
    arm.check()
    try:
        read_record(ArmSpec, arm.folder / layout.SPEC)
    except DataError:  # `arm.json` has the same
        write_json(arm.folder / layout.SPEC, arm.record.spec.model_dump(mode="json"))
    servers.record(arm)
    return arm


def _without_prompts(target: Path, found: Sequence[Arm]) -> str | None:
    """Why no prompt's text can be read, neither the run's nor an arm's own; None where one can."""
    if any((arm.folder / layout.PROMPTS).exists() for arm in found):
        return None
    try:
        layout.read_prompts(target / layout.PROMPTS)
    except DataError as error:
        return str(error)
    return None


def _check_target(target: Path, fresh: bool) -> None:
    """Refuse a folder that is something else than a run's."""
    path = target / layout.MANIFEST
    if not path.exists():
        if fresh and target.exists() and any(target.iterdir()):
            raise UsageError(f"{target} is not a run folder, so --fresh does not delete it: choose another --output")
        return
    value: Any = None
    with contextlib.suppress(DataError):
        value = read_json(path)
    if not (target / "arms").is_dir() if value is None else not (isinstance(value, dict) and "arms" in value):
        raise UsageError(f"{target} is not a run folder, its {path.name} is something else's: choose another --output")


def _clear(target: Path) -> None:
    """Remove an earlier run, and only that."""
    try:
        for name in ("arms", layout.FIGURES):
            shutil.rmtree(target / name, ignore_errors=False) if (target / name).exists() else None
        for name in (
            layout.MANIFEST, layout.COMPARISON, layout.FIDELITY, layout.POSITIONS, layout.LOOKS, layout.PROMPTS,
            layout.REPORT, layout.HTML,
        ):  # fmt: skip
            (target / name).unlink(missing_ok=True)
    except OSError as error:
        raise PrerequisiteError(f"cannot delete {error.filename}: {error.strerror}") from None
