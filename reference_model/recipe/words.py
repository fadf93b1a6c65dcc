"""The words that keys are made of: training takes them from its own text, evaluation from lists training never uses."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_CITIES = """
Lisbon Toronto Nairobi Osaka Helsinki Santiago Karachi Melbourne Chicago Houston Denver Seattle Boston Madrid
Vienna Prague Warsaw Budapest Athens Cairo Tunis Dakar Lagos Accra Kampala Harare Durban Tehran Baghdad Ankara Moscow
Riga Oslo Bergen Aarhus Hamburg Munich Cologne Lyon Marseille Turin Milan Naples Palermo Seville Bilbao Porto Dublin
Glasgow Leeds Bristol Cardiff Lima Quito Bogota Caracas Havana Panama Montreal Ottawa Calgary Winnipeg Phoenix Dallas
Austin Memphis Atlanta Orlando Miami Tampa Delhi Mumbai Chennai Kolkata Dhaka Hanoi Bangkok Manila Jakarta Taipei Seoul
Busan Tokyo Kyoto Sapporo Perth Sydney Brisbane Auckland Wellington
"""
RETRIEVAL_WORDS = Path(__file__).parents[2] / "tasks" / "retrieval" / "words.txt"


@dataclass(frozen=True)
class Words:
    """What keys are drawn from. Evaluation has adjectives and nouns; in training both are the same list."""

    first: list[str]
    second: list[str]
    names: list[str]


def evaluation_words() -> Words:
    """The adjectives and nouns of the project's own retrieval task, and cities."""
    adjectives, nouns = RETRIEVAL_WORDS.read_text().split("\n\n")
    return Words(adjectives.split(), nouns.split(), _CITIES.split())


def training_words(documents: Iterable[str], least: int = 30) -> Words:
    """Words and capitalised words that occur `least` times or more in the text, without any evaluation word."""
    held_out = evaluation_words()
    banned = {word.lower() for word in (*held_out.first, *held_out.second, *held_out.names)}
    lower: Counter[str] = Counter()
    capital: Counter[str] = Counter()
    for text in documents:
        lower.update(re.findall(r"\b[a-z]{3,11}\b", text))
        capital.update(re.findall(r"(?<=[a-z,] )[A-Z][a-z]{3,11}\b", text))
    words = sorted(word for word, count in lower.items() if count >= least and word not in banned)
    names = sorted(word for word, count in capital.items() if count >= least and word.lower() not in banned)
    return Words(words, words, names or [word.capitalize() for word in words])
