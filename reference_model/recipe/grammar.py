"""Wordings made up by the thousand, so that a model learns to look things up and not one way of asking.

The two wordings that no sample may have (`wordings.UNSEEN_SENTENCE`, `UNSEEN_LINE`) cannot be made here.
"""

import numpy as np

from reference_model.recipe.wordings import Wording

NOUNS = ("number", "code", "password", "key", "token", "address", "phone number", "price", "score", "{t}", "{t}", "{t}")
ADJECTIVES = (
    "",
    "",
    "secret ",
    "special ",
    "magic ",
    "access ",
    "hidden ",
    "private ",
    "new ",
    "important ",
    "account ",
)
OPENINGS = (
    "The",
    "The",
    "Remember that the",
    "Note that the",
    "It is known that the",
    "Please keep in mind: the",
    "One",
)
LINKS = (
    " of {k} is",
    " for {k} is",
    " for {k} is:",
    " of {k}:",
    " that belongs to {k} is",
    " of {k} =",
    " given to {k} was",
)
HEADS = (
    "",
    "",
    "Some facts are hidden in the text below. Remember them.\n",
    "Read the following carefully.\n",
    "Here is a long document.\n\n",
    "I will ask you a question about this text afterwards.\n",
)
ASKS = (
    "\nWhat is the {p}{q}?",
    "\nQuestion: what is the {p}{q}?",
    "\n\nTell me the {p}{q}.",
    "\nQ: {p}{q}?",
    "\nNow the text is over. What was the {p}{q}?",
)
ANSWERS = (" The {p}{l} {v}.", "\nAnswer: The {p}{l} {v}.", "\nA: the {p}{l} {v}.", " It is {v}.", "\nAnswer: {v}.")
SEPARATORS = (":", " =", " ->", " |", ",", " is", " has", " -", " :", " =>")
BULLETS = ("", "", "", "- ", "line ", "entry ", "item ", "* ", "row ")
SUFFIXES = ("", "", "", "", "", ".", ";", " units", " in all")
STATEMENTS = (
    "{k} can be reached under {v}.",
    "{k} lives at {v}.",
    "In the drawer of {k} lies a note that says {v}.",
    "The guard told {k} to remember {v}.",
    "Ask {k}, and the reply will be {v}.",
    "It was {k} who wrote down {v}.",
    "Nobody but {k} knows about {v}.",
    "On the door of {k} one reads {v}.",
)
"""Sentences that name no quantity; question and answer come from the two lists below."""
STATEMENT_ASKS = (
    "\nWhat was said about {k}?",
    "\nQuestion: what does the text say about {k}?",
    "\n\nRepeat the sentence about {k}.",
    "\nWhich sentence names {k}?",
)
STATEMENT_ANSWERS = (" {s}", "\nAnswer: {s}", "\nA: {s}")
LIST_HEADS = (
    "",
    "",
    "Records:\n",
    "Below is a table. Remember it.\n",
    "Here are some lines. One of them will matter.\n",
    "The following is a list of names and values.\n",
)
LIST_ASKS = (
    "\n\nWhat is the value of {k}?",
    "\nFind {k}.",
    "\n",
    "\n\n",
    "\nWhich value does {k} have?",
    "\nNow the record is over. Tell me the value of {k}.",
    "\nRepeat the line of {k}.",
)


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def compose_sentence(rng: np.random.Generator) -> Wording:
    """A sentence that tells a value, with a question and an answer to match."""
    keys = (("words", "words", "name", "name"), ("words", "name", "d8", "uuid"))[int(rng.integers(2))]
    values = ("d7", "d5", "d4", "word", "h8", "uuid")
    if rng.random() < 0.3:
        item = _pick(rng, STATEMENTS)
        answer = _pick(rng, STATEMENT_ANSWERS).replace("{s}", item)
        return Wording(_pick(rng, HEADS), item, _pick(rng, STATEMENT_ASKS), answer, keys=keys, values=values)
    name = _pick(rng, ADJECTIVES) + _pick(rng, NOUNS)
    link = _pick(rng, LINKS)
    opening = _pick(rng, OPENINGS)
    item = f"One {name}{link} {{v}}." if opening == "One" else f"{opening} {name}{link} {{v}}."
    asked = " for {k}" if " for " in link else " of {k}"
    question = _pick(rng, ASKS).replace("{p}", name).replace("{q}", asked)
    answer = _pick(rng, ANSWERS).replace("{p}", name).replace("{l}", link)
    return Wording(_pick(rng, HEADS), item, question, answer, keys=keys, values=values)


def compose_line(rng: np.random.Generator) -> Wording:
    """A line of a list that tells a value, with a question; the answer repeats the line or names the key."""
    bullet, separator = _pick(rng, BULLETS), _pick(rng, SEPARATORS)
    brackets = ("<", ">") if rng.random() < 0.15 else ("", "")
    item = f"{bullet}{{k}}{separator} {brackets[0]}{{v}}{brackets[1]}{_pick(rng, SUFFIXES)}"
    question = _pick(rng, LIST_ASKS)
    if "{k}" in question and rng.random() < 0.4:
        answer = f" The value of {{k}} is {brackets[0]}{{v}}{brackets[1]}"
    else:
        answer = ("\n" if "{k}" in question else "") + item
    keys = (("words",), ("words",), ("name",), ("d8",), ("h8",), ("uuid",))[int(rng.integers(6))]
    return Wording(_pick(rng, LIST_HEADS), item, question, answer, True, keys, ("d7", "d5", "d8", "word", "h8", "uuid"))
