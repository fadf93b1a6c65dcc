"""`sage-eval calibrate`: the shift of K that `smooth_k=static` subtracts, fixed once per model and layer.

The mean over a text of each channel of K after RoPE. Softmax does not see what it is (a shift common to all keys moves
all logits of a query alike), so it need not be exact, only near the mean of what is served.

The file is safetensors: `layers.{i}`, float32 [kv_heads, head_dim] with all heads of the model (a tensor-parallel rank
takes its own), and as metadata `model_sha256` (the manifest's hash of the model), `tokens` and `text`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sage_eval.calibrate.capture import Seen, load_model, run
from sage_eval.calibrate.text import Calibration, calibration
from sage_eval.errors import DataError
from sage_eval.runs import manifest
from sage_eval.runs.files import write_bytes

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = 16_384


class Shift(NamedTuple):
    """What was measured: a tensor a layer, [kv_heads, head_dim], and the metadata of its file."""

    layers: "dict[int, Tensor]"
    metadata: dict[str, str]


def calibrate(name: str, output: Path, text: Path | None = None, *, tokens: int = TOKENS) -> Shift:
    """Measure the mean K of the model `name` (folder or hub id) and write it to `output`.

    `UsageError` for too little text, `PrerequisiteError` for a model that cannot be run, `DataError` where its keys are
    not finite.
    """
    from safetensors.torch import save

    folder = manifest.find_model(name)
    given = calibration(folder, text, tokens=tokens)
    layers = mean_keys(folder, given)
    metadata = {
        "model_sha256": manifest.describe_model(name, folder)["sha256"],
        "tokens": str(given.tokens),
        "text": given.source,
    }
    write_bytes(output, save({f"layers.{i}": mean for i, mean in sorted(layers.items())}, metadata))
    return Shift(layers, metadata)


def mean_keys(folder: Path, given: Calibration) -> "dict[int, Tensor]":
    """The mean of post-RoPE K over all tokens of `given`: float32 [kv_heads, head_dim] by layer, on the CPU."""
    import torch

    sums: dict[int, Tensor] = {}

    def add(seen: Seen) -> None:
        total = seen.k.double().sum(0).cpu()
        sums[seen.layer] = sums[seen.layer] + total if seen.layer in sums else total

    model = load_model(folder)
    for window in given.windows:
        run(model, window, add)
    means = {layer: (total / given.tokens).float().contiguous() for layer, total in sums.items()}
    for layer, mean in means.items():
        if not torch.isfinite(mean).all():
            raise DataError(f"the keys of layer {layer} of {folder} are not finite: the checkpoint is damaged")
    return means
