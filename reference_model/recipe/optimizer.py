"""Muon for the matrices, AdamW for embeddings and norms, and the learning rate's course."""

import math
from typing import Any

import torch
from torch import Tensor

from reference_model.recipe.model import Llama

WARM_UP = 200
"""Steps of linear warm-up."""
DECAY = 0.4
"""Share of the schedule, at its end, over which the learning rate falls to nothing along a cosine."""


def rate_factor(progress: float, step: int) -> float:
    """Of the peak learning rate, after `step` steps since the start and at `progress` (0 … 1) of the schedule."""
    falling = max(0.0, (progress - (1 - DECAY)) / DECAY)
    return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * min(1.0, falling)))


def orthogonalised(gradients: Tensor, steps: int = 5) -> Tensor:
    """Matrices [n, rows, columns] with their singular values moved near 1, by Newton-Schulz iteration in bf16."""
    x: Tensor = gradients.bfloat16()
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if tall else x


class Muon:
    """Momentum whose direction is orthogonalised (Jordan et al. 2024), matrices of one shape at a time.

    Updates are scaled by 0.2 √max(rows, columns), so that AdamW's learning rates serve (Liu et al. 2025,
    arXiv:2502.16982).
    """

    def __init__(self, parameters: list[Tensor], decay: float, momentum: float = 0.95) -> None:
        self.groups: dict[tuple[int, ...], list[Tensor]] = {}
        for parameter in parameters:
            self.groups.setdefault(tuple(parameter.shape), []).append(parameter)
        self.momenta = {shape: torch.zeros_like(torch.stack(group)) for shape, group in self.groups.items()}
        self.decay, self.momentum = decay, momentum

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for shape, group in self.groups.items():
            gradients = torch.stack([parameter.grad for parameter in group if parameter.grad is not None])
            momentum = self.momenta[shape]
            momentum.lerp_(gradients, 1 - self.momentum)
            update = orthogonalised(gradients.lerp_(momentum, self.momentum)).float()  # Nesterov
            update *= -rate * 0.2 * math.sqrt(max(shape))
            torch._foreach_mul_(group, 1 - rate * self.decay)
            torch._foreach_add_(group, list(update.unbind()))


class Optimizer:
    """Both optimizers under one learning rate. `decay` shrinks matrices, `embedding_decay` embeddings."""

    def __init__(self, model: Llama, peak: float, decay: float, embedding_decay: float = 0.1) -> None:
        named = list(model.named_parameters())
        self.peak = peak
        self.parameters = [parameter for _, parameter in named]
        self.muon = Muon([p for name, p in named if p.ndim == 2 and "embed" not in name], decay)
        norms = [p for _, p in named if p.ndim == 1]
        self.adam = torch.optim.AdamW(
            [
                {"params": [model.embed_tokens.weight], "weight_decay": embedding_decay},
                {"params": norms, "weight_decay": 0.0},
            ],
            lr=peak,
            betas=(0.9, 0.95),
            eps=1e-10,
            fused=model.embed_tokens.weight.is_cuda,
        )

    def step(self, progress: float, step: int) -> float:
        """Apply the gradients and clear them; the learning rate that was used."""
        rate = self.peak * rate_factor(progress, step)
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.muon.step(rate)
        self.adam.step()
        for parameter in self.parameters:
            parameter.grad = None
        return rate

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {"adam": self.adam.state_dict(), "momenta": list(self.muon.momenta.values())}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`, for the same model."""
        self.adam.load_state_dict(state["adam"])
        for own, saved in zip(self.muon.momenta.values(), state["momenta"], strict=True):
            own.copy_(saved)
