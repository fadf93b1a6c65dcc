"""One command per folder: a lock that ends with its process, however that ends."""

import contextlib
import fcntl
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sage_eval.errors import PrerequisiteError, UsageError

FILE = ".lock"


@dataclass(frozen=True)
class Holder:
    """Who a lock's file names. `alive` is None where that is a process of another machine, and `note` what it left."""

    process: str
    alive: bool | None
    note: str


def holder(path: Path) -> Holder | None:
    """Who holds the lock with this file, or held it and was killed; None where there is none. Takes no lock."""
    try:
        process, _, note = path.read_text(encoding="utf-8", errors="replace").partition("\n")
    except OSError:
        return None
    if not (named := re.fullmatch(r"process (\d+) on (.*)", process)):
        return Holder("a command", None, "")  # it is just being written
    here = named[2] == socket.gethostname() and Path("/proc/self/fd").exists()
    return Holder(process, _has_open(named[1], path) if here else None, note.strip())


def _has_open(pid: str, path: Path) -> bool:
    """Whether a process of this machine has the file open: its number may be another process's by now."""
    try:
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if each.samefile(path):
                    return True
    except PermissionError:
        return True  # another user's
    except OSError:
        pass
    return False


@contextlib.contextmanager
def lock(folder: Path, name: str = FILE, note: str = "") -> Iterator[None]:
    """Hold `folder` (made if need be) during the block; the file of a process that is gone is taken over.

    The file `name` in it says who holds it, and has a `note` for those who watch. Raises `UsageError` that names the
    process and the host which hold it, `PrerequisiteError` where it cannot be made.
    """
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _locked(path)
    except BlockingIOError:
        with contextlib.suppress(OSError):
            by = path.read_text().partition("\n")[0].strip()
            raise UsageError(f"{folder} is in use by {by}: wait for it, or choose another --output") from None
        raise UsageError(f"{folder} is in use by another command: wait for it, or choose another --output") from None
    except OSError as error:
        raise PrerequisiteError(f"cannot write {path}: {error.strerror}; choose another --output") from None
    try:
        try:
            os.ftruncate(handle, 0)
            os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n{note}".encode())
        except OSError as error:
            raise PrerequisiteError(
                f"cannot write {path}: {error.strerror}; free some space or choose another --output"
            ) from None
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _locked(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
        except FileNotFoundError:  # its holder ended meanwhile and took the file with it
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
