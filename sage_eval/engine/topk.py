"""The k most probable tokens at each scored position, as SGLang's replies carry them and as arrays.

SGLang's ordinary reply names them as nested lists of (logprob, id, text): over 100 bytes for each of k × positions, in
three processes. Its flat form (`return_flat_raw_top_logprobs`, 0.5.17 and later) is the same numbers in two arrays.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]
Logprobs = npt.NDArray[np.float32]

REQUEST = {"return_flat_raw_top_logprobs": True, "return_flat_raw_top_logprobs_b64": True}
"""Arguments of a request that make `TopK.read` possible, beside `top_logprobs_num`."""


@dataclass(frozen=True, slots=True, eq=False)
class TopK:
    """For n positions their k most probable tokens: ids [n, k] and log-probabilities in nats [n, k], best first."""

    ids: Ids
    logprobs: Logprobs

    @classmethod
    def read(cls, meta: Mapping[str, Any], inside: int) -> Self:
        """The last `inside` positions within the prompt and the one after it.

        Raises KeyError, IndexError, TypeError or ValueError for a reply that lacks them.
        """
        after = meta["output_top_logprobs"][0]
        ids = np.array([[entry[1] for entry in after]], np.int32)
        logprobs = np.array([[entry[0] for entry in after]], np.float32)
        if not inside:
            return cls(ids, logprobs)
        shape = meta["input_top_logprobs_shape"]
        if shape[0] < inside:
            raise IndexError(f"top-k lists of {inside} positions expected, {shape[0]} returned")
        within = [
            np.frombuffer(base64.b64decode(meta[f"input_top_logprobs_{name}_flat_b64"]), kind).reshape(shape)
            for name, kind in (("idx", "<i4"), ("val", "<f4"))
        ]
        return cls(np.concatenate([within[0][-inside:], ids]), np.concatenate([within[1][-inside:], logprobs]))


@dataclass(frozen=True, slots=True, eq=False)
class TextWindow:
    """A piece of a text, scored: what was predicted, how well, and the most probable tokens in its place.

    `start` counts the text's tokens before the first target [n], `context` the tokens the model saw before it, the
    token that conditions a text without context included. `prompt` hashes context and targets.
    """

    task: str
    doc_id: int
    start: int
    context: int
    prompt: str
    targets: Ids
    logprobs: Logprobs
    top: TopK
