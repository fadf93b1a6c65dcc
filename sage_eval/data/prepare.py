"""`sage-eval prepare`: model and data sets in one local folder, pinned, so that later runs need no network.

Afterwards `SAGE_EVAL_DATA=FOLDER HF_HUB_OFFLINE=1` and the model's folder inside are all that an evaluation reads.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sage_eval.data import mmlu, wikitext
from sage_eval.data.folder import check_file
from sage_eval.data.manifest import NAME, Manifest, Source
from sage_eval.errors import DataError, PrerequisiteError, UsageError

REVISIONS = {
    wikitext.HUB_LINES: "b08601e04326c79dfdd32d625aee71d232d685c3",
    mmlu.HUB: "c30699e8356da336a370243923dbaf21066bb9fe",
}
"""The commits whose content the pinned hashes describe."""

IGNORED = ["original/*", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.pth", "*.tflite"]
"""Files of a model repository that SGLang does not load."""


def prepare(
    data_dir: Path,
    model: str | None = None,
    *,
    datasets: Sequence[str] = ("wikitext2", "mmlu"),
    revision: str | None = None,
    source: Path | None = None,
) -> Manifest:
    """Fill `data_dir` and write its manifest, which is returned; what a folder already has from before stays in it.

    `datasets` names parts of the folder (wikitext2, mmlu, haystack); they come from the hub, or, with `source`, from
    another folder of the same format. `model` is a hub name, fetched at `revision` (default: main, resolved to its
    commit), or a local folder, which is copied. Raises `UsageError` for an unknown name, `DataError` for content that
    is not the known one or has gone since an earlier call, `PrerequisiteError` where the hub cannot be reached or
    refuses.
    """
    known = ("haystack", *_FETCH)
    for name in datasets:
        if name not in known:
            raise UsageError(f"unknown data set {name!r}: the folder's parts are {', '.join(known)}")
        if name not in _FETCH and source is None:
            raise UsageError(f"{name} is not on the hub: name a folder that has it with --from")
    data_dir = data_dir.expanduser().resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    manifest = Manifest.read(data_dir) if (data_dir / NAME).is_file() else Manifest()
    for name in datasets:
        if source is not None:
            written = _copy(source.expanduser().resolve(), data_dir, name)
            manifest.sources[name] = Source(repository=str(source), revision=None)
        else:
            fetch, repository = _FETCH[name]
            written = fetch(data_dir)
            manifest.sources[name] = Source(repository=repository, revision=REVISIONS[repository])
        for path in written:
            check_file(data_dir, path.relative_to(data_dir).as_posix())
        manifest.add(data_dir, written)
    if model is not None:
        folder, commit = _model(data_dir, model, revision)
        manifest.sources[model] = Source(repository=model, revision=commit)
        manifest.models[model] = folder.relative_to(data_dir).as_posix()
        manifest.add(data_dir, files(folder))
    manifest.write(data_dir)
    manifest.check_present(data_dir)
    return manifest


def files(folder: Path) -> list[Path]:
    """All files below a folder, but for what the hub client keeps for itself."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts)


def _copy(source: Path, data_dir: Path, name: str) -> list[Path]:
    if not (source / name).is_dir():
        raise DataError(f"{source} has no folder {name}: give one in the format of `sage-eval prepare`")
    written = []
    for path in files(source / name):
        target = data_dir / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path != target:
            shutil.copyfile(path, target)
        written.append(target)
    return written


def _fetch_wikitext(data_dir: Path) -> list[Path]:
    (data_dir / "wikitext2").mkdir(exist_ok=True)
    written = []
    for split in ("test", "validation"):
        table = _parquet(wikitext.HUB_LINES, f"{wikitext.HUB_CONFIG}/{split}-00000-of-00001.parquet")
        path = data_dir / "wikitext2" / wikitext.FILES[split]
        path.write_bytes(wikitext.raw_from_rows([row["text"] for row in table]).encode())
        written.append(path)
    return written


def _fetch_mmlu(data_dir: Path) -> list[Path]:
    # One file a split for all subjects: "all" also has the 47 MB of auxiliary_train, which is not asked for.
    return [
        path
        for split in ("dev", "test")
        for path in mmlu.write_split(data_dir, split, _parquet(mmlu.HUB, f"all/{split}-00000-of-00001.parquet"))
    ]


_FETCH: dict[str, tuple[Callable[[Path], list[Path]], str]] = {
    "wikitext2": (_fetch_wikitext, wikitext.HUB_LINES),
    "mmlu": (_fetch_mmlu, mmlu.HUB),
}


def _parquet(repository: str, file: str) -> list[dict[str, Any]]:
    """The rows of a hub file at its pinned commit."""
    from huggingface_hub import hf_hub_download
    from pyarrow import parquet

    with tempfile.TemporaryDirectory() as folder, _hub(repository):
        commit = REVISIONS[repository]
        path = hf_hub_download(repository, file, repo_type="dataset", revision=commit, local_dir=folder)
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
        return rows


def fetch_repository(name: str, folder: Path) -> str:
    """Bring the hub's data set `name`, whole, into `folder`; returns its commit and raises as `prepare` does."""
    from huggingface_hub import HfApi, snapshot_download

    with _hub(name):
        commit = HfApi().dataset_info(name).sha
        snapshot_download(name, repo_type="dataset", revision=commit, local_dir=folder)
    return str(commit)


def _model(data_dir: Path, model: str, revision: str | None) -> tuple[Path, str | None]:
    """Folder and commit of a model brought into `data_dir`."""
    local = Path(model).expanduser().resolve()
    if local.is_dir():
        target = data_dir / "models" / local.name
        if target != local:
            shutil.copytree(local, target, dirs_exist_ok=True)
        return target, None
    from huggingface_hub import HfApi, snapshot_download

    target = data_dir / "models" / model.replace("/", "--")
    with _hub(model):
        info = HfApi().model_info(model, revision=revision)
        names = [file.rfilename for file in info.siblings or []]
        ignored = IGNORED + (["*.bin", "*.pt"] if any(name.endswith(".safetensors") for name in names) else [])
        snapshot_download(model, revision=info.sha, local_dir=target, ignore_patterns=ignored)
    return target, info.sha


@contextmanager
def _hub(repository: str) -> Iterator[None]:
    """Turn the hub client's errors, from a dead network to a gated model, into one line."""
    from httpx import HTTPError
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        yield
    except (HTTPError, OSError, OfflineModeIsEnabled, LocalEntryNotFoundError) as error:
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise PrerequisiteError(
            f"cannot fetch {repository}: {reason}; check the name, the network and `hf auth login`, or take a local "
            "folder with --from"
        ) from error
