"""The model as it is trained: a plain Llama whose parameters have the names that transformers' Llama gives them.

Master weights are fp32 and products are computed in the activations' dtype, which bf16 training of a small model needs
and transformers' Llama has no switch for; `export` writes a checkpoint of transformers' own LlamaForCausalLM.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


@dataclass(frozen=True)
class Shape:
    """The numbers of a Llama, by the names of its config.json."""

    hidden_size: int = 384
    intermediate_size: int = 1024
    num_hidden_layers: int = 8
    num_attention_heads: int = 3
    num_key_value_heads: int = 1
    head_dim: int = 128
    vocab_size: int = 8192
    rope_theta: float = 500_000.0
    max_position_embeddings: int = 8192
    rms_norm_eps: float = 1e-5

    def as_config(self) -> dict[str, object]:
        """The content of config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "mlp_bias": False,
            "hidden_act": "silu",
            "initializer_range": 0.02,
            "pretraining_tp": 1,
            "tie_word_embeddings": True,
            "use_cache": True,
            "rope_scaling": None,
            "torch_dtype": "bfloat16",
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            **asdict(self),
        }


class Linear(nn.Linear):
    """fp32 weight, no bias, product in the input's dtype."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    """x / rms(x) · weight, in fp32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps) * self.weight).to(x.dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on x [rows, length, heads, head_dim], halves paired as in transformers' Llama."""
    a, b = x.float().chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = shape.num_attention_heads, shape.num_key_value_heads, shape.head_dim
        self.q_proj = Linear(shape.hidden_size, self.heads * self.head_dim)
        self.k_proj = Linear(shape.hidden_size, self.kv_heads * self.head_dim)
        self.v_proj = Linear(shape.hidden_size, self.kv_heads * self.head_dim)
        self.o_proj = Linear(self.heads * self.head_dim, shape.hidden_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        weight = torch.cat((self.q_proj.weight, self.k_proj.weight, self.v_proj.weight)).to(x.dtype)
        qkv = F.linear(x, weight).view(*x.shape[:2], self.heads + 2 * self.kv_heads, self.head_dim)
        qk = rotate(qkv[:, :, : -self.kv_heads], cos, sin).transpose(1, 2)
        q, k, v = qk[:, : self.heads], qk[:, self.heads :], qkv[:, :, -self.kv_heads :].transpose(1, 2)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return cast(Tensor, self.o_proj(out.transpose(1, 2).flatten(2)))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = Linear(shape.hidden_size, shape.intermediate_size)
        self.up_proj = Linear(shape.hidden_size, shape.intermediate_size)
        self.down_proj = Linear(shape.intermediate_size, shape.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = F.linear(x, torch.cat((self.gate_proj.weight, self.up_proj.weight)).to(x.dtype)).chunk(2, -1)
        return cast(Tensor, self.down_proj(F.silu(gate) * up))


class Block(nn.Module):
    """Attention and MLP, each added to what it read; in training a share `dropout` of what is added is left out."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.dropout = 0.0
        self.input_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self._dropped(self.self_attn(self.input_layernorm(x), cos, sin))
        return x + self._dropped(self.mlp(self.post_attention_layernorm(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


class Llama(nn.Module):
    """Initialised from `seed`: normal with std 0.02, less in what writes to the residual stream."""

    def __init__(self, shape: Shape, seed: int, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.shape, self.dtype = shape, dtype
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.num_hidden_layers))
        self.norm = RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                writes = name.endswith(("o_proj.weight", "down_proj.weight"))
                std = 0.02 / math.sqrt(2 * shape.num_hidden_layers) if writes else 0.02
                nn.init.normal_(parameter, 0, std, generator=generator)
        half = torch.arange(0, shape.head_dim, 2, dtype=torch.float64) / shape.head_dim
        angles = torch.outer(torch.arange(shape.max_position_embeddings, dtype=torch.float64), shape.rope_theta**-half)
        self.cos: Tensor
        self.sin: Tensor
        self.register_buffer("cos", angles.cos().float()[:, None], persistent=False)  # [positions, 1, head_dim / 2]
        self.register_buffer("sin", angles.sin().float()[:, None], persistent=False)

    def set_dropout(self, share: float) -> None:
        """For every block, in training mode."""
        for block in cast(Iterable[Block], self.layers):
            block.dropout = share

    def hidden(self, ids: Tensor) -> Tensor:
        """States before the last norm: ids [rows, length] → [rows, length, hidden_size]."""
        x = self.embed_tokens(ids).to(self.dtype)
        cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        for block in self.layers:
            x = block(x, cos, sin)
        return cast(Tensor, x)

    def logits(self, hidden: Tensor) -> Tensor:
        """[…, hidden_size] → […, vocab_size] in the states' dtype."""
        return F.linear(self.norm(hidden), self.embed_tokens.weight.to(hidden.dtype))

    def loss_sums(self, hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Sums over the batch, [6]: weight · loss, weight; loss and count of plain text; loss and count of answers."""
        loss = F.cross_entropy(self.logits(hidden).flatten(0, 1).float(), targets.flatten(), reduction="none")
        weight = weights.flatten()
        text, answer, w = (
            (weight == 8).float(),
            (weight >= 32).float(),
            weight.float(),
        )  # see samples.TEXT, LEAST_ANSWER
        return torch.stack(
            ((w * loss).sum(), w.sum(), (text * loss).sum(), text.sum(), (answer * loss).sum(), answer.sum())
        )

    def checkpoint(self) -> dict[str, Tensor]:
        """fp32 parameters on the CPU, named as in LlamaForCausalLM."""
        return {f"model.{name}": p.detach().float().cpu().clone() for name, p in self.named_parameters()}

    def load_checkpoint(self, tensors: dict[str, Tensor]) -> None:
        """The inverse of `checkpoint`; KeyError for a missing name."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(tensors[f"model.{name}"])
