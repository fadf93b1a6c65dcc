"""Files of settings: those of `--config`, and suites, which ship with the package, have a version and are hashed.

Both are YAML with the names of `config.RunConfig`; `about` and `version` say what a file is. A change of a suite's
settings is a new version.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sage_eval.errors import PrerequisiteError, UsageError
from sage_eval.parsing import nearest

FOLDER = Path(__file__).parent
_HEADER = ("about", "version")


@dataclass(frozen=True)
class SettingsFile:
    """What a file says, where it says it, and what it is."""

    path: Path
    settings: dict[str, Any]
    about: str
    label: str
    """Name, version and the beginning of the file's SHA-256."""
    node: yaml.Node

    def line(self, place: tuple[int | str, ...]) -> int | None:
        """The line, from 1, of the setting at `place`, a path of names; None where the file does not have it."""
        node, line = self.node, None
        for depth, name in enumerate(place):
            found = None
            if isinstance(node, yaml.MappingNode):
                found = next(((key, value) for key, value in node.value if key.value == str(name)), None)
            if found is None:
                return line if depth else None
            line, node = found[0].start_mark.line + 1, found[1]
        return line


def names() -> list[str]:
    """The suites of the package."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(name: str) -> SettingsFile:
    """The suite of that name, or in that file. `UsageError` for a name that is neither."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
        if path.suffix not in (".yaml", ".yml"):
            raise UsageError(
                f"unknown suite {name!r}{nearest(name, names())}; valid: {', '.join(names())}, a YAML file"
            )
    return read(path)


def read(path: Path) -> SettingsFile:
    """Read a file of settings; `UsageError` names the line that is no YAML, `PrerequisiteError` a file that is not."""
    try:
        data = path.read_bytes()
        node = yaml.compose(data.decode(), Loader=yaml.SafeLoader)
        settings = yaml.safe_load(data)
    except OSError as error:
        raise PrerequisiteError(f"cannot read the configuration {path}: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}," if error.problem_mark else ""
        raise UsageError(f"{path}{line} is not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if node is None or not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise UsageError(f"{path} must be a mapping of settings, such as `model: PATH`")
    about, version = (settings.pop(name, None) for name in _HEADER)
    digest = hashlib.sha256(data).hexdigest()[:12]
    label = f"{path.stem}{'' if version is None else f' {version}'} (sha256 {digest})"
    return SettingsFile(path, settings, str(about or ""), label, node)
