"""The identity of this package's source, so that a published measurement says which kernels it is of."""

import hashlib
from pathlib import Path


def source_hash() -> str:
    """SHA-256 over names and contents of all Python files of `sage_eval/attention`, in the order of their names."""
    root = Path(__file__).parents[1] / "attention"
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
