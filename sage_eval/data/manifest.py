"""`manifest.json` of a prepared folder: what is in it, where it came from, and the SHA-256 of each file."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sage_eval.errors import DataError
from sage_eval.store.files import write_json

NAME = "manifest.json"


class File(BaseModel):
    """Size and SHA-256 of a file's bytes."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "File":
        with path.open("rb") as file:
            return cls(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


class Source(BaseModel):
    """A hub repository at a commit, or a local folder (`revision` None)."""

    repository: str
    revision: str | None


class Manifest(BaseModel):
    """What `sage-eval prepare` put into a folder. `models` maps a model's name to its folder in there."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    sources: dict[str, Source] = Field(default_factory=dict)
    models: dict[str, str] = Field(default_factory=dict)
    files: dict[str, File] = Field(default_factory=dict)

    @classmethod
    def read(cls, root: Path) -> "Manifest":
        """Raises `DataError` where there is none, or where it is damaged."""
        path = root / NAME
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise DataError(f"{path} is missing: make the folder with `sage-eval prepare --data-dir {root}`") from None
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise DataError(f"{path} is damaged ({reason}): run `sage-eval prepare --data-dir {root}` again") from None

    def add(self, root: Path, paths: Iterable[Path]) -> None:
        self.files |= {path.relative_to(root).as_posix(): File.of(path) for path in paths}

    def check_present(self, root: Path) -> None:
        """Raise `DataError` where a recorded file is not there, or a model has none, saying how to bring it back."""
        again = {folder: f"sage-eval prepare {model} --data-dir {root}" for model, folder in self.models.items()}
        for folder, command in again.items():
            if not any(name.startswith(f"{folder}/") for name in self.files):
                raise DataError(f"{root / folder} has no files: run `{command}` again")
        for name in self.files:
            if not (root / name).is_file():
                model = next((command for folder, command in again.items() if name.startswith(f"{folder}/")), None)
                command = model or f"sage-eval prepare --data-dir {root}"
                raise DataError(f"{root / name} is missing: run `{command}` again")

    def write(self, root: Path) -> None:
        self.files = dict(sorted(self.files.items()))
        write_json(root / NAME, self.model_dump())
