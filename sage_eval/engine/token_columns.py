"""One copy from the device a prefill, where SGLang 0.5.17 makes one a prompt token.

A request with `token_ids_logprob` gets those ids at every scored prompt position, and SGLang's
`get_token_ids_logprobs_chunk` reads them position by position, waiting for the device each time: 8,192 waits for a text
window, seconds a window once several engines share a GPU. The hook hands it the same numbers, fetched at once.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

TARGET = "sglang.srt.layers.logprob_processor.get_token_ids_logprobs_chunk"


class Columns:
    """Stands in for log-probabilities [rows, vocabulary], of which only the columns `ids` are looked at."""

    def __init__(self, logprobs: "Tensor", ids: Sequence[int]) -> None:
        self.shape = logprobs.shape
        self._place = {token: place for place, token in enumerate(ids)}
        self._rows: list[list[float]] = logprobs[:, list(ids)].tolist()

    def __getitem__(self, key: tuple[int, Sequence[int]]) -> "_Values":
        row, ids = key
        values = self._rows[row]
        return _Values(values[self._place[token]] for token in ids)


class _Values(list[float]):
    def tolist(self) -> list[float]:
        return list(self)


def fetch_once(original: Callable[..., int], logprobs: "Tensor", wanted: Sequence[Any], *args: Any, **kw: Any) -> int:
    """Around SGLang's function: `logprobs` [rows, vocabulary] in nats, `wanted` the ids of each request or None."""
    ids = sorted({token for tokens in wanted if tokens is not None for token in tokens})
    return original(Columns(logprobs, ids) if ids else logprobs, wanted, *args, **kw)
