"""Prompts of one length: the first tokens of articles of WikiText-2's test set."""

from collections.abc import Callable, Sequence

from sage_eval.errors import DataError

Prompt = tuple[int, ...]


def first_tokens(encode: Callable[[str], Sequence[int]], count: int, tokens: int) -> list[Prompt]:
    """The first `tokens` ids of the first `count` articles that have as many; `DataError` where there are fewer."""
    from sage_eval.data.wikitext import documents, load_raw

    return cut([encode(page) for page in documents(load_raw("test"))], count, tokens)


def cut(documents: Sequence[Sequence[int]], count: int, tokens: int) -> list[Prompt]:
    """The first `tokens` ids of the first `count` documents that have as many; `DataError` where there are fewer."""
    prompts = [tuple(ids[:tokens]) for ids in documents if len(ids) >= tokens][:count]
    if len(prompts) < count:
        raise DataError(f"only {len(prompts)} documents have {tokens} tokens: ask for fewer --prompts or --tokens")
    return prompts
