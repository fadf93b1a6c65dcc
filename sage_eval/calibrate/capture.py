"""Running a causal language model and seeing what its attention gets: Q and K after RoPE (and QK-norm), V, the scale.

transformers calls whatever is registered in its `AttentionInterface` under the name a model was loaded with; what is
registered here shows its arguments to a visitor and hands them on to torch's exact attention. So every architecture
whose attention goes through that interface can be read, and none is patched.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sage_eval.errors import DataError, PrerequisiteError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

NAME = "sage_eval_capture"


class Seen(NamedTuple):
    """One layer's attention arguments for one sequence, on the model's device and in its dtype.

    q is [tokens, heads, head_dim], k and v are [tokens, kv_heads, head_dim]; `scale` is the softmax scale.
    """

    layer: int
    q: "Tensor"
    k: "Tensor"
    v: "Tensor"
    scale: float


Visit = Callable[[Seen], "Tensor | None"]
"""Sees a layer; what it returns, [tokens, heads, head_dim], takes the place of the layer's exact attention."""


def load_model(folder: Path, dtype: str | None = None) -> Any:
    """The model in `folder`, on the GPU where there is one, its attention visible to `run`.

    By default in its own dtype there, and in fp32 on a CPU, where bf16 is several times slower. `PrerequisiteError`
    where transformers cannot load it.
    """
    import torch
    from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = dtype or ("auto" if device == "cuda" else "float32")
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=NAME)
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise PrerequisiteError(f"transformers cannot load the model in {folder}: {reason}") from None
    return model.to(device).eval()


def look(model: Any, ids: Sequence[int], visit: Visit) -> None:
    """As `run`, without the logits, which take more memory than all else in a small model."""
    run(model, ids, visit, logits_to_keep=1)


def run(model: Any, ids: Sequence[int], visit: Visit, **options: Any) -> "Tensor":
    """Run one sequence; `visit` sees each layer. The logits, [tokens, vocabulary], in the model's dtype.

    `PrerequisiteError` where the model's attention does not come by here.
    """
    import torch

    seen = 0

    def count(layer: Seen) -> "Tensor | None":
        nonlocal seen
        seen += 1
        return visit(layer)

    with torch.inference_mode():
        found = model(torch.tensor([list(ids)], device=model.device), use_cache=False, visit=count, **options)
    if seen != model.config.num_hidden_layers:
        raise PrerequisiteError(
            f"{seen} of {model.config.num_hidden_layers} layers of this {model.config.model_type} model use the "
            "attention that can be captured: only models whose every layer is softmax attention can be calibrated"
        )
    return found.logits[0]  # type: ignore[no-any-return]


def _attend(
    module: Any, query: "Tensor", key: "Tensor", value: "Tensor", mask: "Tensor | None", *, visit: Visit, **given: Any
) -> Any:
    """[1, heads, tokens, head_dim] each, as transformers has them."""
    from transformers import AttentionInterface

    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    if v.shape != k.shape:
        raise UsageError(f"keys of {k.shape[-1]} channels and values of {v.shape[-1]} (MLA): no SageAttention for them")
    scale = float(given.get("scaling") or q.shape[-1] ** -0.5)
    if (out := visit(Seen(module.layer_idx, q, k, v, scale))) is not None:
        return out[None].to(query.dtype), None
    return AttentionInterface()["sdpa"](module, query, key, value, mask, **given)


def same_function(one: Path, other: Path, ids: Sequence[int]) -> None:
    """`DataError` unless both checkpoints have the same logits in bf16, bit for bit, on the text `ids`."""
    import torch

    def logits(folder: Path) -> "Tensor":
        return run(load_model(folder, "bfloat16"), ids, lambda _seen: None)

    if not torch.equal(logits(one), logits(other)):
        raise DataError("exact attention is not bit-identical with scaled channels: this checkpoint cannot be used")
