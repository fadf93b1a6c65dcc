"""Losses and exact matches of a language model, whichever class it is."""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from reference_model.recipe.tokenizer import PAD, Ids

BATCH_TOKENS = 65_536


class LanguageModel(Protocol):
    """States of a right-padded batch, and what the head makes of some of them."""

    device: torch.device

    def states(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Of ids [rows, length], with the real tokens of each row [rows] → [rows, length, size]."""

    def head(self, states: Tensor) -> Tensor:
        """[n, size] → fp32 logits [n, vocabulary]."""


@torch.inference_mode()
def token_losses(model: LanguageModel, ids: Ids | list[int]) -> Tensor:
    """-log p(token | those before it), in nats, of every token but the first: fp64 on the CPU, [tokens - 1]."""
    x = torch.as_tensor(np.asarray(ids, np.int64), device=model.device)
    states = model.states(x[None, :-1], torch.tensor([len(x) - 1]))[0]
    parts = [
        torch.nn.functional.cross_entropy(model.head(piece), target, reduction="none")
        for piece, target in zip(torch.split(states, 2048), torch.split(x[1:], 2048), strict=True)
    ]
    return torch.cat(parts).double().cpu()


@torch.inference_mode()
def exact_matches(model: LanguageModel, samples: list[tuple[Ids, Ids]], batch_tokens: int = BATCH_TOKENS) -> list[bool]:
    """Whether greedy decoding would give the answer: every answer token is the argmax given those before it.

    Decoding greedily yields the answer if and only if that holds, so one pass over prompt and answer is enough.
    """
    matches: list[bool] = []
    longest = max(len(prompt) + len(answer) for prompt, answer in samples)
    rows = max(1, batch_tokens // longest)
    for start in range(0, len(samples), rows):
        batch = samples[start : start + rows]
        lengths = torch.tensor([len(prompt) + len(answer) for prompt, answer in batch])
        ids = torch.full(
            (len(batch), -(-int(lengths.max()) // 128) * 128), PAD
        )  # few shapes: GPU kernels plan for each
        for row, pair in zip(ids, batch, strict=True):
            row[: len(pair[0]) + len(pair[1])] = torch.from_numpy(np.concatenate(pair).astype(np.int64))
        ids = ids.to(model.device)
        states = model.states(ids, lengths)
        for number, (prompt, answer) in enumerate(batch):
            span = slice(len(prompt) - 1, len(prompt) + len(answer) - 1)
            best = model.head(states[number, span]).argmax(-1)
            matches.append(bool((best == ids[number, len(prompt) : len(prompt) + len(answer)]).all()))
    return matches
