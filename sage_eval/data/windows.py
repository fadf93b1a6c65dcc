"""Windows for token perplexity over WikiText-2, as GPTQ's and later quantisation papers measure it.

Their recipe: join the hub's rows with blank lines, tokenise once, cut every 2,048 tokens, drop the rest, and score
tokens 2 … 2,048 of each window (Frantar et al. 2023, arXiv:2210.17323, `get_loaders` and `llama_eval`).

lm-eval hands models text, not tokens, so a cut is moved back by the few tokens it takes until the piece tokenises alone
as it did in the whole; a model then scores exactly the tokens counted here. A special token that the tokenizer adds to
every request is counted in the window's length and not scored.
"""

from bisect import bisect_right
from collections import Counter
from itertools import accumulate
from typing import Any, TypedDict

from sage_eval.data.tokenizers import token_ids
from sage_eval.data.wikitext import documents, rows
from sage_eval.errors import DataError, UsageError

WINDOW = 2048
SEARCH = 16
"""Tokens that a cut may move back."""
LOOK = 4
"""Tokens after a cut that must be what they are in the whole text."""


class Window(TypedDict):
    """One window: `continuation` is scored after `context`, its first token; `document` is its cluster."""

    window: int
    document: int
    length: int
    tokens: int
    context: str
    continuation: str


def windows(raw: str, tokenizer: Any, length: int = WINDOW) -> list[Window]:
    """The windows of a raw file, at most `length` tokens each with the special ones; `tokens` of them are scored.

    `document` is the article that most of the window's tokens come from (the earlier one of two equals): neighbouring
    windows of one article resemble each other, so the standard error is clustered by it.
    """
    room = length - tokenizer.num_special_tokens_to_add()
    if room <= SEARCH:
        raise UsageError(f"window={length}: a window has more than {SEARCH} tokens; the papers' is {WINDOW}")
    table = rows(raw)
    text = "\n\n".join(table)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids: list[int] = encoded["input_ids"]
    ends = [end for _, end in encoded["offset_mapping"]]
    starts_of_documents = _document_starts(raw, table)
    cut: list[Window] = []
    first, begin = 0, 0
    while len(ids) - first >= room:
        last = _cut(text, tokenizer, ids, ends, first, begin, room)
        piece = text[begin : ends[last - 1]]
        head = _head(piece, tokenizer, ends[:last], first, begin)
        share = Counter(bisect_right(starts_of_documents, end - 1) - 1 for end in ends[first:last])
        scored = len(token_ids(tokenizer, piece)) - len(token_ids(tokenizer, piece[:head]))
        cut.append(
            {
                "window": len(cut),
                "document": max(0, share.most_common(1)[0][0]),
                "length": last - first,
                "tokens": scored,
                "context": piece[:head],
                "continuation": piece[head:],
            }
        )
        first, begin = last, ends[last - 1]
    return cut


def _document_starts(raw: str, table: list[str]) -> list[int]:
    """Where each article begins in the joined text, in characters."""
    starts = list(accumulate((len(row) + 2 for row in table), initial=0))
    first_rows = []
    row = 0
    for page in documents(raw):
        while not (table[row].strip() and page.startswith(table[row])):
            row += 1
        first_rows.append(starts[row])
        row += page.count("\n")
    return first_rows


def _cut(text: str, tokenizer: Any, ids: list[int], ends: list[int], first: int, begin: int, room: int) -> int:
    """Where the window from token `first` ends: the last cut within `room` that leaves the tokens on both sides alike.

    Where none of the last 16 does (a tokenizer that puts a mark before any text leaves none), the longest piece that
    fits is taken; its tokens are counted as they are when it stands alone, so the count stays what a model scores.
    """
    fitting = first + room - SEARCH
    for last in range(first + room, first + room - SEARCH, -1):
        end = ends[last - 1]
        alone = token_ids(tokenizer, text[begin:end])
        if len(alone) > room:
            continue
        fitting = max(fitting, last)
        following = token_ids(tokenizer, text[end : ends[min(last + 2 * LOOK, len(ends)) - 1]])
        if alone == ids[first:last] and following[:LOOK] == ids[last : last + LOOK]:
            return last
    return fitting


def _head(piece: str, tokenizer: Any, ends: list[int], first: int, begin: int) -> int:
    """Characters of the shortest context: it ends in no white space, which lm-eval would move, and tokenises alike."""
    alone = token_ids(tokenizer, piece)
    for end in (end - begin for end in ends[first:]):
        head = piece[:end]
        if head and head == head.rstrip():
            ids = token_ids(tokenizer, head)
            if ids == alone[: len(ids)]:
                return end
    raise DataError(f"no context in the window that begins {piece[:40]!r}: the text is not WikiText-2's")
