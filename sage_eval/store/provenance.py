"""Where a number comes from: command, code, versions, machine and model. Every record and every run carries it."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from sage_eval import __version__
from sage_eval.errors import PrerequisiteError

PACKAGES = ("sglang", "torch", "triton", "transformers", "lm-eval", "datasets", "sageattention", "numpy", "scipy")
MODEL_FILES = ("*.json", "*.safetensors", "*.bin", "*.model", "*.txt", "*.jinja", "*.gguf")


class Provenance(BaseModel):
    """What is needed to judge and to repeat a measurement."""

    model_config = ConfigDict(extra="forbid")

    created: str
    """ISO 8601, UTC, of the first command."""
    commands: list[str]
    """Every command that added to the record, oldest first."""
    model: dict[str, Any]
    versions: dict[str, str]
    host: dict[str, Any]
    devices: list[dict[str, Any]]
    code: str | None = None
    """SHA-256 of the attention code (`store.source.source_hash`); None in files that did not note it."""

    @classmethod
    def collect(cls, model: dict[str, Any], command: str) -> Self:
        """That of a measurement of `model` which `command` begins now."""
        from sage_eval.store.source import source_hash

        return cls(
            created=datetime.now(UTC).replace(microsecond=0).isoformat(),
            commands=[command],
            model=model,
            versions=versions(),
            host=host(),
            devices=devices(),
            code=source_hash(),
        )

    def comparable(self) -> dict[str, Any]:
        """What must be the same for two measurements to stand in one record; two machines of a make are two."""
        machine = {name: self.host.get(name) for name in ("cpu", "cores")}
        return {
            "model": self.model, "versions": self.versions, "devices": self.devices, "host": machine, "code": self.code,
        }  # fmt: skip


def versions() -> dict[str, str]:
    """Installed versions of what decides the numbers; a package that is absent is left out."""
    found = {"sage-eval": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def host() -> dict[str, Any]:
    """Operating system, processor and memory; no name that would identify the machine."""
    import psutil

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }


def devices() -> list[dict[str, Any]]:
    """The NVIDIA GPUs by NVML, without importing torch; an empty list where there is none."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # NVML's own error classes, or no library at all: both mean "no GPU"
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        driver = pynvml.nvmlSystemGetDriverVersion()
        return [
            {
                "name": pynvml.nvmlDeviceGetName(handle),
                "memory_gib": round(pynvml.nvmlDeviceGetMemoryInfo(handle).total / 2**30, 1),
                "compute_capability": ".".join(map(str, pynvml.nvmlDeviceGetCudaComputeCapability(handle))),
                "driver": driver,
            }
            for handle in handles
        ]
    finally:
        pynvml.nvmlShutdown()


def git_state() -> dict[str, Any] | None:
    """Commit and cleanliness of the checkout that this code runs from; None for an installed package."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=30
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changed)}
    except (OSError, subprocess.SubprocessError):
        return None


def find_model(name: str) -> Path:
    """The local folder of a model: the path itself, or the hub's snapshot, downloaded if it must be.

    Both arms then read the same files. Raises `PrerequisiteError` where there is no such model.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise PrerequisiteError(f"{folder} holds no config.json: give a folder in Hugging Face's model format")
        return folder
    if folder.exists() or folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise PrerequisiteError(f"model {name} is not a folder")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(MODEL_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PrerequisiteError(
            f"model {name} is neither a folder nor in the hub's cache, and fetching it failed ({reason}): "
            "check the name, or fetch it with `sage-eval prepare` where there is a network"
        ) from None


def describe_model(name: str, folder: Path) -> dict[str, Any]:
    """Name and SHA-256 of the model: of each file, and over the sorted list of them all."""
    files = {path.name: _sha256(path) for path in sorted(_model_files(folder))}
    total = hashlib.sha256("".join(f"{digest}  {file}\n" for file, digest in files.items()).encode()).hexdigest()
    size = sum((folder / file).stat().st_size for file in files)
    return {"name": name, "sha256": total, "bytes": size, "files": files}


def content_hash(path: Path, skip: Collection[str] = ()) -> str:
    """SHA-256 of a file, or of all files below a folder with their names there; hidden ones and `skip` are left out."""
    if path.is_file():
        return _sha256(path)
    found = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        parts = file.relative_to(path).parts
        if file.is_file() and parts[0] not in skip and not any(part.startswith(".") for part in parts):
            found.update(f"{_sha256(file)}  {'/'.join(parts)}\n".encode())
    return found.hexdigest()


def _model_files(folder: Path) -> set[Path]:
    return {path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def shell(argv: Sequence[str]) -> str:
    """The command `sage-eval ARGV` as a line to paste."""
    import shlex

    return shlex.join(["sage-eval", *argv])
