"""An arm's process in a comparison: it answers the tasks with lm-eval and leaves the answers in the arm's folder.

Order matters here: whatever can be refused without an engine is refused before one is started, and `arm.json`, which
marks the arm as finished, is written last.
"""

import contextlib
import pkgutil
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sage_eval.compare import asking, corpus, metrics, servers
from sage_eval.compare.pairs import leaves_of
from sage_eval.compare.running import RunningScores
from sage_eval.compare.standing import outermost
from sage_eval.compare.tasks import load_tasks
from sage_eval.data.folder import use_data
from sage_eval.engine.chat import choose
from sage_eval.errors import DataError, UsageError
from sage_eval.store import parquet, topk
from sage_eval.store import samples as records
from sage_eval.store.files import write_json, write_jsonl_zst
from sage_eval.store.folder import (
    ARM,
    JOURNAL,
    LOG,
    OLD_SAMPLES,
    PROMPTS,
    RESULTS,
    RUNNING,
    SAMPLES,
    SCHEMA_VERSION,
    SPEC,
    TOPK,
)  # fmt: skip
from sage_eval.store.provenance import devices
from sage_eval.store.spec import ArmSpec


class AnswerWorker:
    """The object of an arm's process (`arms.worker.Worker`)."""

    def __init__(self, spec: dict[str, Any], folder: str, share: Mapping[str, Any] = MappingProxyType({})) -> None:
        self._spec, self._folder, self._share = ArmSpec.model_validate(spec), Path(folder), share

    def answer(self) -> None:
        """See the function `answer`."""
        answer(self._spec, self._folder, self._share)


def answer(spec: ArmSpec, folder: Path, share: Mapping[str, Any] = MappingProxyType({})) -> None:
    """Answer `spec.tasks` and write samples, prompts, lm-eval's results and, last, the finish marker to `folder`.

    `share` are engine arguments that decide no number: what of a card the arm may take.
    """
    use_data(spec.data_dir)
    (folder / ARM).unlink(missing_ok=True)
    servers.forget(spec, folder)
    write_json(folder / SPEC, spec.model_dump(mode="json"))
    manager, tasks = load_tasks(spec.tasks, spec.model_args["pretrained"], spec.task_args, spec.include_path, spec.seed)
    asking.prepare(tasks, spec, spec.seed)
    asking.rehearse(spec, tasks)
    members = {"group_subtasks": manager.load(spec.tasks)["group_map"]}
    groups = outermost({group: leaves_of(group, members) for group in members["group_subtasks"]})
    running = RunningScores(folder / RUNNING, tasks, spec.samples, groups)
    started = time.monotonic()
    with _model(spec, folder, share) as lm, contextlib.closing(running):
        ready = time.monotonic()
        lm.cache_hook = running
        from lm_eval import simple_evaluate

        if isinstance(spec.apply_chat_template, str):
            choose(lm.tokenizer, spec.apply_chat_template)
        results = simple_evaluate(
            model=lm,
            tasks=list(spec.tasks),
            **asking.told(spec),
            task_manager=manager,
            log_samples=True,
            random_seed=spec.seed,
            numpy_random_seed=spec.seed,
            torch_random_seed=spec.seed,
            fewshot_random_seed=spec.seed,
        )
        ended = time.monotonic()
        engine = lm.get_model_info() if hasattr(lm, "get_model_info") else {}
        seconds = servers.ask(lm.server, folder) if servers.asked(spec) else {}
        # lm-eval numbers the requests of chosen items anew.
        windows = [
            replace(window, doc_id=spec.samples[window.task][window.doc_id]) if window.task in spec.samples else window
            for window in getattr(lm, "text_windows", [])
        ]
    empty = [name for name in tasks if not results["samples"].get(name)]
    if empty:
        raise DataError(f"{', '.join(empty)}: no item was answered; the data set has none for these settings")
    cells = {name: (task.get_config("metadata") or {}).get("sage_cell", ()) for name, task in tasks.items()}
    answered = results.pop("samples")
    results["metrics"] = metrics.describe(tasks, answered)
    results["resampled"] = corpus.draw(tasks, answered, results["metrics"], max(corpus.SECONDS, (ended - ready) / 4))
    lines, prompts = records.from_lm_eval(answered, metrics.keeper(results["metrics"]), cells, metrics.sizes(tasks))
    results["config"] |= {"model": spec.lm, "model_args": spec.model_args}
    for config in results["configs"].values():
        metadata = config.get("metadata") or {}
        if source := metadata.get("config_source"):
            # A run folder is published: where somebody's checkout lies is nobody's business.
            metadata["config_source"] = "/".join(Path(source).parts[-2:])
    write_jsonl_zst(folder / PROMPTS, [{"schema_version": SCHEMA_VERSION}, *prompts])
    (folder / OLD_SAMPLES).unlink(missing_ok=True)
    parquet.write(folder / SAMPLES, lines)
    topk.write(folder / TOPK, windows)
    write_jsonl_zst(folder / RESULTS, [{"schema_version": SCHEMA_VERSION, **results}])
    kept = engine.get("kept", {}).get("seconds", 0.0)
    write_json(
        folder / ARM,
        {
            "schema_version": SCHEMA_VERSION,
            "fingerprint": spec.fingerprint(),
            "spec": spec.model_dump(mode="json"),
            "items": len(lines),
            "seconds": {"start": round(ready - started, 3), "evaluate": round(ended - ready + kept, 3), **seconds},
            "engine": engine,
        },
    )


@contextlib.contextmanager
def _model(spec: ArmSpec, folder: Path, share: Mapping[str, Any]) -> Any:
    """The lm-eval model, closed again however the block ends."""
    if ":" in spec.lm:
        try:
            factory = pkgutil.resolve_name(spec.lm)
        except (ImportError, AttributeError) as error:
            raise UsageError(f"lm={spec.lm!r}: {error}") from None
    else:
        from lm_eval.api.registry import get_model

        try:
            factory = get_model(spec.lm)
        except (KeyError, ValueError) as error:
            raise UsageError(f"lm={spec.lm!r}: {' '.join(str(error).split())}") from None
    arguments = {**spec.model_args, **share}
    if spec.lm == "sglang-sage":
        # Not the spec's, which says what decides the numbers. Another GPU's answers would be no arm's.
        # Which items are asked makes no answer another one: a later look takes what an earlier one had.
        chosen = spec.model_copy(update={"samples": {}, "limit": None})
        gpus = sorted({device["name"] for device in devices()})
        arguments |= {"journal": folder / JOURNAL, "journal_key": " ".join([chosen.fingerprint(), *gpus])}
        if spec.model_args.get("serve"):
            arguments["server_log"] = folder / LOG
    lm = factory.create_from_arg_obj(arguments, {})
    try:
        yield lm
    finally:
        close = getattr(lm, "close", None)
        if callable(close):
            close()
