"""`sage-eval prepare --tasks`: what any of lm-eval's tasks loads, put into the data folder by loading the task once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sage_eval.compare.tasks import load_tasks
from sage_eval.data import loads
from sage_eval.data.folder import use_data
from sage_eval.data.manifest import NAME, Manifest, Source
from sage_eval.data.prepare import fetch_repository, files


def fetch(
    data_dir: Path,
    tasks: Sequence[str],
    tokenizer: str | None = None,
    task_args: Mapping[str, Any] | None = None,
    source: Path | None = None,
) -> Manifest:
    """Load `tasks` with what they load for it put into `data_dir`; returns its manifest, which tells of all of it.

    `tokenizer`: a model's folder, for tasks that are made to a length in tokens. With `source`, a folder of the same
    format, nothing comes from the network. Raises what `load_tasks` and `prepare` raise; what came before that stays.
    """
    data_dir = data_dir.expanduser().resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    use_data(data_dir)
    manifest = Manifest.read(data_dir) if (data_dir / NAME).is_file() else Manifest()
    source = source and source.expanduser().resolve()
    with loads.recording(data_dir, fetch_repository, source) as recording:
        try:
            load_tasks(tasks, tokenizer or "", task_args or {})
        finally:
            for name, commit in recording.commits.items():
                manifest.sources[name] = Source(repository=name if commit else str(source), revision=commit)
            for part in (loads.HUB, loads.WEB, loads.NLTK):
                manifest.add(data_dir, files(data_dir / part))
            manifest.write(data_dir)
    return manifest
