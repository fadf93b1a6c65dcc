"""Starting an arm's process, watching it, and leaving nothing behind when it ends, fails or is interrupted."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sage_eval import errors
from sage_eval.errors import EngineError, PrerequisiteError, SageEvalError
from sage_eval.runs.files import read_json, write_json
from sage_eval.runs.folder import ARM, ERROR, LOG, SPEC
from sage_eval.runs.spec import ArmSpec

GRACE_SECONDS = 5.0
_SMALL_DISK = 64 * 1024  # with less than this an arm cannot even leave its error


def run_arm(spec: ArmSpec, folder: Path, progress: Callable[[str], None], device: str | None = None) -> None:
    """Run `spec` to its end in a session of its own; `progress` gets the last line of its log a few times a second.

    `device` is the one GPU that it may see (an entry of `CUDA_VISIBLE_DEVICES`), None for all of them. Raises the error
    that the arm reported, or `EngineError` where it died without a word; on any way out, Ctrl-C included, every process
    it started is ended.
    """
    for name in (ERROR, ARM):
        (folder / name).unlink(missing_ok=True)
    write_json(folder / SPEC, spec.model_dump(mode="json"))
    log = folder / LOG
    with log.open("wb") as output:
        # Its own session: a Ctrl-C on the terminal reaches this process only, which then ends the whole group.
        process = subprocess.Popen(
            [sys.executable, "-m", "sage_eval.runs.arm", str(folder / SPEC)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment() | ({"CUDA_VISIBLE_DEVICES": device} if device else {}),
        )
    try:
        while process.poll() is None:
            progress(last_line(log))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.25)
    finally:
        end_group(process)
    if process.returncode != 0 or not (folder / ARM).exists():
        raise _failure(spec, folder, process.returncode)


def last_line(log: Path, window: int = 4096) -> str:
    """The last non-empty line of a growing log, carriage returns counted as line ends, at most 120 characters."""
    with log.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - window))
        text = file.read().decode("utf-8", "replace").replace("\r", "\n")
    return next((line.strip()[:120] for line in reversed(text.split("\n")) if line.strip()), "")


def environment() -> dict[str, str]:
    """The environment of a child that runs this project's code, wherever it was imported from."""
    root = str(Path(__file__).parents[2])
    path = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    # A log is no terminal: one progress line a second is enough.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1", "TQDM_MININTERVAL": "1"}


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """End what is left of the process group; the leader may be gone while its scheduler lives on."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline and _alive(process):
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin:
        process.stdin.close()


def _alive(process: "subprocess.Popen[bytes]") -> bool:
    process.poll()  # reaps the leader, which would otherwise count as alive
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def _failure(spec: ArmSpec, folder: Path, code: int) -> SageEvalError:
    log = folder / LOG
    if (folder / ERROR).exists():
        report = read_json(folder / ERROR)
        kind = getattr(errors, report["type"], None)
        if isinstance(kind, type) and issubclass(kind, SageEvalError):
            return kind(f"{report['message']} (arm {spec.name}; its log: {log})")
        return EngineError(f"arm {spec.name} failed: {report['type']}: {report['message']}; its log: {log}")
    if shutil.disk_usage(folder).free < _SMALL_DISK:
        return PrerequisiteError(f"the disk with {folder} is full: free some space, then repeat the command to resume")
    if code < 0:
        name = signal.Signals(-code).name
        hint = "out of memory? a smaller --limit or mem_fraction_static may help; " if name == "SIGKILL" else ""
        return EngineError(f"arm {spec.name} was ended by {name}; {hint}its log: {log}; repeat the command to resume")
    return EngineError(f"arm {spec.name} ended with code {code}: {last_line(log)} (its log: {log})")
