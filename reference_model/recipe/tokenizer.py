"""The tokenizer: byte-level BPE of a fixed size, in which every digit is a token of its own."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

PAD, BOS, EOS = 0, 1, 2
SPECIAL = ("<pad>", "<s>", "</s>")
# Letters take a leading space, every digit stands alone, newlines stay together: a number is as many tokens as digits,
# and a piece of text that ends where one of these begins is tokenised the same alone and in its place.
PRETOKEN = r"""['’](?:s|t|re|ve|m|ll|d)\b| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"""
Ids = npt.NDArray[np.uint16]


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """BPE with `size` entries, the first three of them `SPECIAL`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKEN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    make_trainer: Any = trainers.BpeTrainer  # typed in some versions of tokenizers alone
    trainer = make_trainer(
        vocab_size=size,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode_documents(tokenizer: Tokenizer, documents: list[str]) -> Ids:
    """The documents one after the other, each between `<s>` and `</s>`: [tokens]."""
    pieces = []
    for start in range(0, len(documents), 64):
        for encoding in tokenizer.encode_batch(documents[start : start + 64], add_special_tokens=False):
            pieces.append(np.array([BOS, *encoding.ids, EOS], np.uint16))
    return np.concatenate(pieces)


def save_for_transformers(tokenizer: Tokenizer, folder: Path, context: int) -> None:
    """`tokenizer.json` and `tokenizer_config.json`; nothing is added to a text, neither BOS nor EOS."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "bos_token": SPECIAL[BOS],
        "clean_up_tokenization_spaces": False,
        "eos_token": SPECIAL[EOS],
        "model_max_length": context,
        "pad_token": SPECIAL[PAD],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_eos_token": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
