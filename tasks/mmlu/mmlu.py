"""A question as lm-eval's `mmlu` puts it: its template, as a function.

lm-eval compiles a template anew for every document and every shot: two minutes for all of MMLU, where this takes two
seconds.
"""

from typing import Any


def question(doc: dict[str, Any]) -> str:
    """The question, its four choices, and "Answer:"."""
    choices = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCD", doc["choices"], strict=True))
    return f"{doc['question'].strip()}\n{choices}\nAnswer:"
