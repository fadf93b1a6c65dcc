"""What lm-eval's tasks load by themselves, out of the data folder:

    hub/OWNER/NAME/     a data set's repository, as it is on the hub
    web/HOST/PATH       a file that a task reads by its address
    nltk_data/          NLTK's own layout

What the folder lacks comes from the network as ever; inside `recording` it is put into the folder first.
"""

import functools
import io
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from sage_eval.data.folder import data_dir
from sage_eval.data.hub_datasets import local_dataset
from sage_eval.errors import DataError

HUB, WEB, NLTK = "hub", "web", "nltk_data"

Fetch = Callable[[str, Path], str | None]
"""Brings a hub data set of this name into this folder; the answer is its commit."""


@dataclass
class Recording:
    """What `recording` brought into the folder: the commit of each hub data set, None for what was copied."""

    root: Path
    fetch: Fetch
    source: Path | None
    commits: dict[str, str | None] = field(default_factory=dict)

    def repository(self, name: str) -> None:
        """Bring a hub data set. A folder under its name is a whole one."""
        target = self.root / HUB / name
        part = target.with_name(f".{target.name}.part")
        part.mkdir(parents=True, exist_ok=True)
        if self.source is None:
            self.commits[name] = self.fetch(name, part)
        else:
            shutil.copytree(self._there(f"{HUB}/{name}"), part, dirs_exist_ok=True)
            self.commits[name] = None
        part.rename(target)

    def file(self, name: str, ask: Callable[[], Any]) -> Any:
        """Bring a file of the web under its `name` in the folder. Returns what `ask` answered, if it was asked."""
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.source is not None:
            shutil.copyfile(self._there(name), target)
            return None
        response = ask()
        if response.ok:
            part = target.with_name(f".{target.name}.part")
            part.write_bytes(response.content)
            part.rename(target)
        return response

    def _there(self, name: str) -> Path:
        assert self.source is not None
        if not (path := self.source / name).exists():
            raise DataError(f"{self.source} has no {name}: give a folder that `sage-eval prepare` filled")
        return path


_recording: list[Recording] = []


@contextmanager
def recording(root: Path, fetch: Fetch, source: Path | None = None) -> Iterator[Recording]:
    """Put what tasks load meanwhile into `root`, the folder of `SAGE_EVAL_DATA`: from the network, or from `source`."""
    if source is not None and (source / NLTK).is_dir():
        shutil.copytree(source / NLTK, root / NLTK, dirs_exist_ok=True)
    (root / NLTK).mkdir(exist_ok=True)
    _recording.append(Recording(root, fetch, source))
    try:
        yield _recording[-1]
    finally:
        _recording.pop()


def serve() -> None:
    """Let `datasets.load_dataset` and `requests.get`, as lm-eval's tasks call them, look into the folder first."""
    import datasets
    import requests

    datasets.load_dataset = _load_dataset(datasets.load_dataset)
    requests.get = _get(requests.get)


def find_nltk() -> None:
    """Let NLTK, imported or not, look into the folder first, where it would also put what it fetches."""
    root = data_dir()
    if root is None or not (root / NLTK).is_dir():
        return
    folder = str(root / NLTK)
    others = [path for path in os.environ.get("NLTK_DATA", "").split(os.pathsep) if path and path != folder]
    os.environ["NLTK_DATA"] = os.pathsep.join([folder, *others])
    if (data := sys.modules.get("nltk.data")) is not None:
        data.path[:] = [folder, *(path for path in data.path if path != folder)]
    if (nltk := sys.modules.get("nltk")) is not None and hasattr(nltk, "download"):
        nltk.download.__self__.download_dir = folder  # chosen when it was imported


def _load_dataset(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def load(path: str, name: str | None = None, *more: Any, **options: Any) -> Any:
        if (table := local_dataset(path, name)) is not None:
            split = options.get("split")
            return table if split is None else table[split]
        root = data_dir()
        if root is None or Path(path).exists() or not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", path):
            return original(path, name, *more, **options)
        # A name alone, with files, is a format of `datasets`, such as "json".
        is_format = "/" not in path and bool({"data_files", "data_dir"} & {*options})
        if _recording and not is_format and not (root / HUB / path).is_dir():
            _recording[-1].repository(path)
        if not (root / HUB / path).is_dir():
            return original(path, name, *more, **options)
        # Which commit it is was said when it was fetched.
        there = {key: value for key, value in options.items() if key not in ("revision", "token")}
        return original(str(root / HUB / path), name, *more, **there)

    return load


def _get(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def get(url: Any, *more: Any, **options: Any) -> Any:
        root = data_dir()
        if root is None or not isinstance(url, str) or not (where := urlsplit(url)).netloc:
            return original(url, *more, **options)
        name = f"{WEB}/{where.netloc}{quote(where.path)}{quote(f'?{where.query}') if where.query else ''}"
        if not (root / name).is_file():
            if not _recording:
                return original(url, *more, **options)
            asked = _recording[-1].file(name, lambda: original(url, *more, **options))
            if asked is not None:
                return asked
        import requests

        answer = requests.Response()
        answer.status_code, answer.url, answer.raw = 200, url, io.BytesIO((root / name).read_bytes())
        return answer

    return get
