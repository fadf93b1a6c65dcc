"""A disk that is really full."""

import contextlib
import os
import subprocess
from pathlib import Path

import pytest


class Disk:
    """A file system of its own, `folder`, that holds so many KiB."""

    def __init__(self, folder: Path, kib: int):
        self.folder = folder
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={kib}k,mode=777", "tmpfs", str(folder)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if made.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {made.stderr.strip()}")

    def fill(self, free: int = 0) -> None:
        """Leave `free` KiB."""
        path, kept = self.folder / "filler", self.folder / "kept"
        with contextlib.suppress(OSError):
            kept.write_bytes(bytes(free << 10))
        with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        kept.unlink()

    def free(self) -> None:
        """Take away what fills it."""
        (self.folder / "filler").unlink()

    def close(self) -> None:
        os.sync()
        subprocess.run(["umount", "-l", str(self.folder)], check=False)
