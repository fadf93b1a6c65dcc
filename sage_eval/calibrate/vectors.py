"""`sage-eval calibrate`: the shift of K that `smooth_k=static` subtracts and the balance that `balance=` applies.

The shift is the mean over a text of each channel of K after RoPE. Softmax does not see what it is (a shift common to
all keys moves all logits of a query alike), so it need not be exact, only near the mean of what is served. The balance
is chosen by the definition's error (`scales`), free in every channel: it is applied after RoPE.

The files are safetensors: float32 [kv_heads, head_dim] per layer, with all heads of the model (a tensor-parallel rank
takes its own), and as metadata `model_sha256` (the manifest's hash of the model), `tokens` and `text`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sage_eval.attention.vectors import NAMES
from sage_eval.calibrate.capture import Seen, load_model, look
from sage_eval.calibrate.scales import choose
from sage_eval.calibrate.text import Calibration, calibration
from sage_eval.errors import DataError, UsageError
from sage_eval.store import provenance
from sage_eval.store.files import write_bytes

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = 16_384


class Vectors(NamedTuple):
    """What was measured: for each file its tensors by layer, [kv_heads, head_dim]; and the files' metadata."""

    shift: "dict[int, Tensor]"
    balance: "dict[int, Tensor]"
    metadata: dict[str, str]


def calibrate(
    name: str, shift: Path | None, text: Path | None = None, *, balance: Path | None = None, tokens: int = TOKENS
) -> Vectors:
    """Measure the model `name` (folder or hub id) and write what has a path: its mean K, its balance.

    `UsageError` for too little text or no path, `PrerequisiteError` for a model that cannot be run, `DataError` where
    its keys are not finite.
    """
    from safetensors.torch import save

    paths = {"shift": shift, "balance": balance}
    if not any(paths.values()):
        raise UsageError("name a file to write: --output for the shift, --balance for the balance")
    folder = provenance.find_model(name)
    given = calibration(folder, text, tokens=tokens)
    means, scales = measure(folder, given, balanced=balance is not None)
    metadata = {
        "model_sha256": provenance.describe_model(name, folder)["sha256"],
        "tokens": str(given.tokens),
        "text": given.source,
    }
    found = Vectors(means, scales, metadata)
    for setting, path in paths.items():
        if path:
            tensors = {f"{NAMES[setting]}.{i}": x for i, x in sorted(getattr(found, setting).items())}
            write_bytes(path, save(tensors, metadata))
    return found


def measure(folder: Path, given: Calibration, *, balanced: bool) -> "tuple[dict[int, Tensor], dict[int, Tensor]]":
    """Mean K over all tokens, and the balance by the first window: float32 [kv_heads, head_dim] by layer, on CPU."""
    import torch

    sums: dict[int, Tensor] = {}
    scales: dict[int, Tensor] = {}

    def see(seen: Seen) -> None:
        total = seen.k.double().sum(0).cpu()
        if not torch.isfinite(total).all():
            raise DataError(f"the keys of layer {seen.layer} of {folder} are not finite: the checkpoint is damaged")
        if balanced and seen.layer not in sums:
            scales[seen.layer] = choose(seen).contiguous()
        sums[seen.layer] = sums[seen.layer] + total if seen.layer in sums else total

    model = load_model(folder)
    for window in given.windows:
        look(model, window, see)
    return {layer: (total / given.tokens).float().contiguous() for layer, total in sums.items()}, scales
