"""A mix of requests as an evaluation or a server has it: many short ones and a few long ones.

Prompts of 128 to 8,192 tokens and answers of 16 to 256, each drawn log-uniformly (as many from 128 to 256 as from 4,096
to 8,192) and independently. The lengths are fixed by the number of requests, so that every round, arm and call has the
same work; the tokens are new ones each round.
"""

import numpy as np

PROMPTS, ANSWERS = (128, 8192), (16, 256)
"""Shortest and longest, in tokens."""
_SEED = 0


def lengths(requests: int, positions: int | None = None) -> list[tuple[int, int]]:
    """(prompt, answer) in tokens of each request, together at most the `positions` of the model, if they are known."""
    draws = np.random.default_rng(_SEED).random((requests, 2))
    low, high = np.array([PROMPTS, ANSWERS], dtype=float).T
    sizes = np.rint(low * (high / low) ** draws).astype(int)
    longest = np.maximum(1, (positions or PROMPTS[1] + ANSWERS[1]) - sizes[:, 1])
    return [(int(min(prompt, most)), int(answer)) for (prompt, answer), most in zip(sizes, longest, strict=True)]
