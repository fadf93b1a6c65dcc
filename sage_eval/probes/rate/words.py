"""A tokenizer with a word for every token id, so that every generated token is text, whatever the model.

SGLang's load generator takes the first text that it gets for the first token. With a model's own tokenizer a special
token or half a character is no text, and its time to first token would be that of a later one; random weights produce
little else, and a shape alone has no tokenizer at all. Prompts are token ids and are not tokenised.
"""

from pathlib import Path


def write_words(vocabulary: int, folder: Path) -> Path:
    """Write such a tokenizer for ids below `vocabulary` into `folder`, which is returned."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    # SGLang's server warms up with an English sentence, which must be some token.
    words = WordLevel({f"t{token}": token for token in range(vocabulary)}, unk_token="t0")
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words)).save_pretrained(folder)
    return folder
