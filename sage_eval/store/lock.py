"""One command per folder: a lock that ends with its process, however that ends."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from sage_eval.errors import PrerequisiteError, UsageError

FILE = ".lock"


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold `folder` (made if need be) during the block; the file of a process that is gone is taken over.

    Raises `UsageError` that names the process and the host which hold it, `PrerequisiteError` where it cannot be made.
    """
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _locked(path)
    except BlockingIOError:
        with contextlib.suppress(OSError):
            holder = path.read_text().strip()
            raise UsageError(f"{folder} is in use by {holder}: wait for it, or choose another --output") from None
        raise UsageError(f"{folder} is in use by another command: wait for it, or choose another --output") from None
    except OSError as error:
        raise PrerequisiteError(f"cannot write {path}: {error.strerror}; choose another --output") from None
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
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
