"""A comparison as values: what tests of its numbers need of the runner."""

from pathlib import Path

from sage_eval.compare.pairs import pairs
from sage_eval.compare.verdicts import verdicts
from sage_eval.compare.worker import answer
from sage_eval.render.sections import Report
from sage_eval.report.comparison import sections
from sage_eval.store import parquet
from sage_eval.store.folder import Run

KEY = "sk-0123456789abcdef-is-nobodys-business"
KEYS = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "ANTHROPIC_API_KEY", "WANDB_API_KEY", "SGLANG_API_KEY",
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN",
)  # fmt: skip
"""What an environment has that no file may have."""


def compared(manifest, arms, minimum, margin=None, fail_on=()):
    """The comparison of `arms`, baseline first, whatever folder they are of."""
    return verdicts(pairs(Run(Path("run"), manifest, dict(arms))), minimum, margin, fail_on)


def in_this_process(spec, folder, *_):
    """In place of `compare.run._job`: saves loading lm-eval for each arm."""
    return lambda _device, _check: answer(spec, folder)


def rewrite(file, change):
    """Replace fields of each sample in a file by what `change` makes of it."""
    parquet.write(file, [sample.model_copy(update=change(sample)) for sample in parquet.read(file)])


def twice(sample):
    """The likelihoods of texts twice as low as they were."""
    texts = {name: (2 * score[0], score[1]) for name, score in sample.metrics.items() if isinstance(score, tuple)}
    return {"metrics": {**sample.metrics, **texts}}


def rendered(run):
    """The report as Markdown; no figure is drawn for it."""
    return Report("title", sections(run, {})).markdown()
