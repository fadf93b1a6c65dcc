"""Text to token ids and back, by the rules of lm-eval's `hf` model, so that scores are comparable with it."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from lm_eval.models.utils import has_bos_prefix

from sage_eval.data import tokenizers
from sage_eval.errors import DataError, UsageError


class Tokens:
    """A Hugging Face tokenizer and the decisions around it.

    `add_bos` None leaves BOS to the tokenizer's own default; a text that already begins with it never gets a second.
    `prefix` is the id that conditions texts without context: given, else BOS, else EOS.
    """

    def __init__(self, tokenizer: Any, *, add_bos: bool | None = None, prefix: int | None = None) -> None:
        self.tokenizer = tokenizer
        self._add_bos = add_bos
        self._prefix = prefix
        self.settings = (add_bos, prefix)
        """What was asked for, beside the tokenizer itself."""
        # A question's answers follow each other and share their context.
        self._encode = lru_cache(maxsize=256)(self._encode_uncached)
        self._prepared: dict[str, tuple[int, ...]] = {}

    @classmethod
    def load(cls, name: str, *, add_bos: bool | None, prefix: int | None, **kwargs: Any) -> "Tokens":
        """The tokenizer of a model folder or hub name; `kwargs` go to `AutoTokenizer.from_pretrained`."""
        tokenizer = tokenizers.load(name, "name one with tokenizer=", add_bos_token=add_bos, **kwargs)
        return cls(tokenizer, add_bos=add_bos, prefix=prefix)

    @property
    def eos(self) -> int | None:
        return self.tokenizer.eos_token_id  # type: ignore[no-any-return]

    @property
    def eos_text(self) -> str | None:
        """What EOS decodes to: a stop sequence of every generation."""
        return None if self.eos is None else self.decode([self.eos], skip_special_tokens=False)

    @property
    def prefix(self) -> int:
        """The id before texts without context; `UsageError` where the tokenizer offers none."""
        for candidate in (self._prefix, self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if candidate is not None:
                return int(candidate)
        raise UsageError("the tokenizer has neither BOS nor EOS to put before a text; pass prefix_token_id=")

    def encode(self, text: str, *, add_special_tokens: bool | None = None) -> list[int]:
        """Token ids; `add_special_tokens` None means: as configured, but never a second BOS."""
        if add_special_tokens is None and (ids := self._prepared.get(text)) is not None:
            return list(ids)
        return list(self._encode(text, add_special_tokens))

    def prepare(self, texts: Iterable[str]) -> None:
        """Encode `texts` together, on all cores, for calls of `encode` soon after; forgets those prepared before.

        A fast tokenizer gives a text the same ids in a batch as alone, and takes all cores for it.
        """
        kinds: dict[bool | None, list[str]] = {}
        for text in dict.fromkeys(texts):
            kinds.setdefault(self._special(text), []).append(text)
        self._prepared = {}
        for special, batch in kinds.items():
            found = self.tokenizer(
                batch,
                **({} if special is None else {"add_special_tokens": special}),
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
            self._prepared.update(zip(batch, map(tuple, found["input_ids"]), strict=True))

    def decode(self, tokens: int | Sequence[int], *, skip_special_tokens: bool = True) -> str:
        ids = tokens if isinstance(tokens, int) else list(tokens)
        return str(self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))

    def check_vocabulary(self, size: int) -> None:
        """Raise `DataError` for a tokenizer with ids that a model of `size` embeddings does not have."""
        word, highest = max(self.tokenizer.get_vocab().items(), key=lambda entry: entry[1], default=("", -1))
        if highest >= size:
            raise DataError(
                f"the tokenizer {self.tokenizer.name_or_path!r} has ids up to {highest} ({word!r}), but the model has "
                f"{size} embeddings (vocab_size): it is another model's, or tokens were added and the model not resized"
            )

    def _encode_uncached(self, text: str, add_special_tokens: bool | None) -> tuple[int, ...]:
        special = self._special(text) if add_special_tokens is None else add_special_tokens
        return tuple(self.tokenizer.encode(text, **({} if special is None else {"add_special_tokens": special})))

    def _special(self, text: str) -> bool | None:
        """Whether special tokens are put around `text`; None leaves it to the tokenizer."""
        try:
            prefix = self.decode([self.prefix], skip_special_tokens=False)
        except UsageError:  # a tokenizer without any such token
            return self._add_bos
        return False if has_bos_prefix(text, prefix) else self._add_bos
