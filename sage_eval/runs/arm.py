"""One arm in its own process: `python -m sage_eval.runs.arm SPEC.json` answers the tasks and writes beside the spec.

A fresh process for each arm, because SGLang keeps global state (the chosen backend, CUDA memory, the plugin registry)
that would leak from one arm into the next. Order matters here: whatever can be refused without an engine is refused
before one is started, and `arm.json`, which marks the arm as finished, is written last.
"""

import contextlib
import os
import pkgutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from sage_eval.errors import DataError, SageEvalError, UsageError
from sage_eval.runs import columns, manifest, records, topk
from sage_eval.runs.files import write_json, write_jsonl_zst
from sage_eval.runs.folder import ARM, ERROR, JOURNAL, PROMPTS, RESULTS, SAMPLES, SCHEMA_VERSION, TOPK
from sage_eval.runs.spec import ArmSpec


def main(argv: list[str]) -> int:
    """Run the arm described by the JSON file `argv[0]`; errors go to `error.json`, tracebacks to stderr."""
    folder = Path(argv[0]).parent
    _die_with_parent()
    try:
        run(ArmSpec.model_validate_json(Path(argv[0]).read_bytes()), folder)
    except SageEvalError as error:
        _report(folder, error, str(error))
        return error.exit_code
    except Exception as error:  # the process's edge: the parent shows one line and points at the log
        traceback.print_exc()
        _report(folder, error, (str(error).strip() or "no message").splitlines()[0])
        return 1
    return 0


def _report(folder: Path, error: Exception, message: str) -> None:
    """Leave the error where the parent finds it; on a full disk the log's last line has to do."""
    with contextlib.suppress(SageEvalError):
        write_json(folder / ERROR, {"type": type(error).__name__, "message": message})
    sys.stderr.write(f"{type(error).__name__}: {message}\n")


def run(spec: ArmSpec, folder: Path) -> None:
    """Answer `spec.tasks` and write samples, prompts, lm-eval's results and, last, the finish marker to `folder`."""
    use_data(spec.data_dir)
    from sage_eval.runs.tasks import load_tasks

    manager, tasks = load_tasks(spec.tasks, spec.model_args["pretrained"], spec.task_args)
    if spec.lm == "sglang-sage" and any(task.OUTPUT_TYPE == "loglikelihood_rolling" for task in tasks.values()):
        _check_prefix(spec.model_args)
    started = time.time()
    with _model(spec, folder) as lm:
        ready = time.time()
        from lm_eval import simple_evaluate

        results = simple_evaluate(
            model=lm,
            tasks=list(spec.tasks),
            limit=spec.limit,
            task_manager=manager,
            log_samples=True,
            random_seed=spec.seed,
            numpy_random_seed=spec.seed,
            torch_random_seed=spec.seed,
            fewshot_random_seed=spec.seed,
        )
        ended = time.time()
        engine = lm.get_model_info() if hasattr(lm, "get_model_info") else {}
        windows = getattr(lm, "text_windows", [])
    empty = [name for name in tasks if not results["samples"].get(name)]
    if empty:
        raise DataError(f"{', '.join(empty)}: no item was answered; the data set has none for these settings")
    lines, prompts = records.from_lm_eval(results.pop("samples"))
    results["config"] |= {"model": spec.lm, "model_args": spec.model_args}
    for config in results["configs"].values():
        metadata = config.get("metadata") or {}
        if source := metadata.get("config_source"):
            # A run folder is published: where somebody's checkout lies is nobody's business.
            metadata["config_source"] = "/".join(Path(source).parts[-2:])
    write_jsonl_zst(folder / PROMPTS, [{"schema_version": SCHEMA_VERSION}, *prompts])
    write_jsonl_zst(folder / SAMPLES, columns.encode(lines))
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
            "seconds": {"start": round(ready - started, 3), "evaluate": round(ended - ready + kept, 3)},
            "engine": engine,
        },
    )
    (folder / JOURNAL).unlink(missing_ok=True)


def _check_prefix(arguments: dict[str, Any]) -> None:
    """Refuse, before an engine is started for it, a tokenizer with no token to put before a text."""
    from model_adapters._tokens import Tokens

    tokens = Tokens.load(
        arguments.get("tokenizer") or arguments["pretrained"],
        add_bos=arguments.get("add_bos_token"),
        prefix=arguments.get("prefix_token_id"),
        revision=arguments.get("revision"),
        trust_remote_code=arguments.get("trust_remote_code"),
    )
    _ = tokens.prefix


def use_data(folder: Path | None) -> None:
    """Let the tasks read their data from `folder`; where it is None, from wherever the environment says."""
    if folder:
        os.environ["SAGE_EVAL_DATA"] = str(folder)


@contextlib.contextmanager
def _model(spec: ArmSpec, folder: Path) -> Any:
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
    arguments = dict(spec.model_args)
    if spec.lm == "sglang-sage":
        # Not the spec's, which says what decides the numbers. Another GPU's answers would be no arm's.
        gpus = sorted({device["name"] for device in manifest.devices()})
        arguments |= {"journal": folder / JOURNAL, "journal_key": " ".join([spec.fingerprint(), *gpus])}
    lm = factory.create_from_arg_obj(arguments, {})
    try:
        yield lm
    finally:
        close = getattr(lm, "close", None)
        if callable(close):
            close()


def _die_with_parent() -> None:
    """End this process group when the parent is gone, even if it was killed: stdin is a pipe that it holds open."""

    def wait() -> None:
        # Not sys.stdin: its lock, held by a daemon thread, would abort the interpreter at exit.
        while os.read(0, 1):
            pass
        os.killpg(os.getpgrp(), signal.SIGKILL)

    if os.getpgrp() == os.getpid():
        threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
