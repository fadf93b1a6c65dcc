"""One copy from the device per prefill, where SGLang 0.5.17 to 0.5.20 make one per prompt token.

A request with `token_ids_logprob` gets those ids at every scored prompt position, and SGLang's
`get_token_ids_logprobs_chunk` reads them position by position, waiting for the device each time: 8,192 waits for a text
window, seconds a window once several engines share a GPU. The hook hands it the same numbers, fetched at once. Later
versions fetch a request's rows at once by themselves: there the hook is not used (see `sage_eval.seams`).
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sage_eval.seams import changed

if TYPE_CHECKING:
    from torch import Tensor


class Columns:
    """Stands in for log-probabilities [rows, vocabulary], of which only the columns `ids` are looked at.

    `normaliser`: each row's maximum and log-sum-exp less that maximum [rows], where `logprobs` are raw logits.
    """

    def __init__(
        self, logprobs: "Tensor", ids: Sequence[int], normaliser: "tuple[Tensor, Tensor] | None" = None
    ) -> None:
        self.shape = logprobs.shape
        self._place = {token: place for place, token in enumerate(ids)}
        columns = logprobs[:, list(ids)]
        if normaliser is not None:
            peak, log_sum = (part.reshape(-1, 1) for part in normaliser)
            columns = (columns.float() - peak) - log_sum
        self._rows: list[list[float]] = columns.tolist()

    def __getitem__(self, key: tuple[int, Sequence[int]]) -> "_Values":
        row, ids = key
        if not isinstance(row, int):
            raise changed("reads log-probabilities of chosen ids in another way")
        values = self._rows[row]
        return _Values(values[self._place[token]] for token in ids)


class _Values(list[float]):
    def tolist(self) -> list[float]:
        return list(self)


def fetch_once(
    original: Callable[..., int],
    logprobs: "Tensor",
    wanted: Sequence[Any],
    *args: Any,
    log_normalizer: "tuple[Tensor, Tensor] | None" = None,
) -> int:
    """Around SGLang's function: `logprobs` [rows, vocabulary] in nats, `wanted` the ids of each request or None.

    SGLang 0.5.18 to 0.5.20 hand over logits and their normaliser.
    """
    ids = sorted({token for tokens in wanted if tokens is not None for token in tokens})
    return original(Columns(logprobs, ids, log_normalizer) if ids else logprobs, wanted, *args)
