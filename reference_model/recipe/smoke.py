"""The whole recipe in under a minute on a CPU: a tiny model, a tiny vocabulary, a few steps. It learns nothing."""

from pathlib import Path

from reference_model.recipe.curriculum import SMOKE_STAGES
from reference_model.recipe.export import export
from reference_model.recipe.model import Shape
from reference_model.recipe.prepare import Sources, prepare
from reference_model.recipe.settings import Settings
from reference_model.recipe.train import Run

SHAPE = Shape(
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=3,
    num_key_value_heads=1,
    head_dim=16,
    vocab_size=512,
    max_position_embeddings=512,
)
STEPS = 24


def settings(data: Path, out: Path, **changes: int) -> Settings:
    """Those of the smoke run; `changes` are fields of `Settings`."""
    return Settings(data, out, steps=STEPS, stages=SMOKE_STAGES, shape=SHAPE, evaluate_every=1e9, **changes)  # type: ignore[arg-type]


def smoke(sources: Sources, out: Path) -> Path:
    """Prepare, train and export below `out`; the folder of the checkpoint."""
    data = out / "data"
    prepare(sources, data, vocabulary=SHAPE.vocab_size, least=2, context=SHAPE.max_position_embeddings)
    Run(settings(data, out / "run")).train()
    export(out / "run", data, out / "checkpoint", SHAPE)
    return out / "checkpoint"
