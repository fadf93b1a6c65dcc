"""Where an architecture keeps what makes Q and K, and which of their channels RoPE rotates together.

Scaling such a pair of K by s and the same pair of Q by 1/s changes no attention logit, and for s a power of two not one
bit of it: rotation mixes a pair's two channels with each other only, and a power of two passes through every product,
sum and rounding of a floating-point format that has room for it. `stress` makes a model harder to quantise this way,
`balance` easier.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sage_eval.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


class Layout(NamedTuple):
    """`interleaved`: RoPE rotates channels (2i, 2i + 1), else (i, i + head_dim / 2).

    `norms`: Q and K are normalised per head before RoPE, with weights that all heads of a layer share. They are scaled
    in place of the projections, whose scale the norm would take out again; so all heads of a layer get the same pairs.
    """

    interleaved: bool = False
    norms: bool = False

    def channels(self, pair: int, head_dim: int) -> tuple[int, int]:
        return (2 * pair, 2 * pair + 1) if self.interleaved else (pair, pair + head_dim // 2)

    def by_pair(self, x: "Tensor") -> "Tensor":
        """[…, head_dim] as […, head_dim / 2, 2]."""
        half = x.shape[-1] // 2
        return x.reshape(*x.shape[:-1], half, 2) if self.interleaved else x.view(*x.shape[:-1], 2, half).mT

    def by_channel(self, x: "Tensor") -> "Tensor":
        """[…, head_dim / 2], a number per pair, as […, head_dim]."""
        return x.repeat_interleave(2, -1) if self.interleaved else x.repeat(*[1] * (x.dim() - 1), 2)


LAYOUTS = {
    "llama": Layout(),
    "mistral": Layout(),
    "qwen2": Layout(),
    "qwen3": Layout(norms=True),
    "cohere": Layout(interleaved=True),
}


class Shape(NamedTuple):
    """The attention of a checkpoint."""

    model_type: str
    layout: Layout
    layers: int
    heads: int
    kv_heads: int
    head_dim: int

    def weight_factors(self, factors: "Sequence[Tensor]") -> "dict[str, Tensor]":
        """What the rows of each tensor of the checkpoint are multiplied by, float32 [rows].

        `factors` are what K's channels are multiplied by, [kv_heads, head_dim] per layer; Q's get their inverses.
        """
        found: dict[str, Tensor] = {}
        for layer, k in enumerate(factors):
            q = k.reciprocal().repeat_interleave(self.heads // self.kv_heads, 0)
            for letter, factor in (("q", q), ("k", k)):
                stem = f"model.layers.{layer}.self_attn.{letter}"
                if self.layout.norms:
                    found[f"{stem}_norm.weight"] = factor[0]
                else:
                    found[f"{stem}_proj.weight"] = found[f"{stem}_proj.bias"] = factor.flatten()
        return found


def shape_of(folder: Path) -> Shape:
    """Read it from `config.json`; `UsageError` for an architecture, or a form of one, that is not known here."""
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{folder}: {str(error).strip().splitlines()[0]}") from None
    layout = LAYOUTS.get(config.model_type)
    if layout is None:
        raise UsageError(
            f"scaling channels knows the layouts of {', '.join(LAYOUTS)}, and {folder} is {config.model_type!r}"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    if (rope.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None) or 1.0) != 1.0:
        raise UsageError(
            f"{folder}: RoPE that turns a part of the channels only is not among the layouts that are known"
        )
    if getattr(config, "quantization_config", None):
        raise UsageError(f"{folder} is a quantised checkpoint: a channel can be scaled exactly in a 16-bit one only")
    if getattr(config, "use_qk_norm", False):
        raise UsageError(f"{folder}: {config.model_type} with QK-norm is not among the layouts that are known")
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    return Shape(config.model_type, layout, config.num_hidden_layers, heads, kv_heads, head_dim)


def scaled(name: str, old: "Tensor", factor: "Tensor") -> "Tensor":
    """The tensor `name` with its rows multiplied by `factor`, powers of two.

    `UsageError` where that is not exact in the tensor's own dtype, leaves fp16's range, or where a weight is no number.
    """
    import torch

    rows = factor.view(-1, *[1] * (old.dim() - 1))
    new = (old.float() * rows).to(old.dtype)
    if not new.isfinite().all() and not old.isfinite().all():
        raise UsageError(f"{name} is not finite: the checkpoint is damaged")
    if not torch.equal(new.float() / rows, old.float()) or new.abs().max() > torch.finfo(torch.float16).max:
        raise UsageError(f"{name} cannot be scaled by {factor.max():g} exactly in {old.dtype}: take a smaller scale")
    return new
