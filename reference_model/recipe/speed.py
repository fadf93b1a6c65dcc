"""What makes a GPU fast: compiled blocks, and the fused attention that this GPU runs fastest."""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from reference_model.recipe.model import Llama

LossSums = Callable[[Tensor, Tensor], Tensor]
_BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


def loss_function(model: Llama) -> LossSums:
    """`f(ids, weights)`: the model's loss sums on a batch [rows, length + 1]; compiled where the model is on a GPU."""
    device = model.embed_tokens.weight.device
    layers: list[Callable[..., Tensor]] = list(model.layers)
    sums: Callable[..., Tensor] = model.loss_sums
    if device.type == "cuda":
        layers = [torch.compile(block, dynamic=False) for block in layers]
        sums = torch.compile(model.loss_sums, dynamic=False)

    def compute(ids: Tensor, weights: Tensor) -> Tensor:
        ids, weights = ids.to(device, non_blocking=True).long(), weights.to(device, non_blocking=True)
        inputs, targets = ids[:, :-1], ids[:, 1:].contiguous()
        states = model.embed_tokens(inputs).to(model.dtype)
        cos, sin = model.cos[: inputs.shape[1]], model.sin[: inputs.shape[1]]
        for layer in layers:
            states = layer(states, cos, sin)
        return sums(states, targets, weights[:, 1:].contiguous())

    return compute


def choose_attention(model: Llama) -> dict[str, float]:
    """Switch to the faster of flash and cuDNN attention; seconds of each for forward and backward; empty on a CPU."""
    device = model.embed_tokens.weight.device
    if device.type != "cuda":
        return {}
    torch.backends.cuda.matmul.allow_tf32 = True
    taken = {name: _seconds(model, backend, device) for name, backend in _BACKENDS.items()}
    best = min(taken, key=lambda name: taken[name])
    torch.backends.cuda.enable_flash_sdp(best == "flash")
    torch.backends.cuda.enable_cudnn_sdp(best == "cudnn")
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_math_sdp(False)
    return taken


def _seconds(model: Llama, backend: SDPBackend, device: torch.device) -> float:
    shape, taken = model.shape, 0.0
    heads = (shape.num_attention_heads, shape.num_key_value_heads, shape.num_key_value_heads)
    try:
        for rows, length in ((32, 2048), (8, 8192)):
            tensors = [torch.randn(rows, length, n, shape.head_dim, device=device, dtype=model.dtype) for n in heads]
            q, k, v = (x.transpose(1, 2).requires_grad_() for x in tensors)
            begin = 0.0
            with sdpa_kernel(backend):
                for turn in range(4):
                    if turn == 1:  # the first builds the kernel
                        torch.cuda.synchronize()
                        begin = time.perf_counter()
                    scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).sum().backward()  # type: ignore[no-untyped-call]
                torch.cuda.synchronize()
            taken += time.perf_counter() - begin
    except RuntimeError:  # this backend does not take these shapes here
        return float("inf")
    return taken
