"""How a key and its value are told and asked for: the fixed wordings. `grammar` makes others.

A template has `{k}` where the key goes and `{v}` where the value goes; `{t}` says what the value is (number, code).
The answer begins where `{v}` stands in `answer`. What stands before and after `{v}` ends at a token border.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Wording:
    """`item` is a sentence inside prose or a line of a list (`is_line`); `keys`, `values` are kinds of `keys.py`."""

    head: str
    item: str
    question: str
    answer: str
    is_line: bool = False
    keys: tuple[str, ...] = ("words",)
    values: tuple[str, ...] = ("d7", "d7", "d7", "d5", "d8", "word", "h8", "uuid")

    def about(self, value_kind: str) -> "Wording":
        """With `{t}` filled in."""
        noun = {"word": "word", "h8": "code", "uuid": "uuid"}.get(value_kind, "number")
        head, item, question, answer = (
            text.replace("{t}", noun) for text in (self.head, self.item, self.question, self.answer)
        )
        return replace(self, head=head, item=item, question=question, answer=answer)


# The project's own retrieval task and RULER (Hsieh et al. 2024, arXiv:2404.06654), which it follows.
RULER = Wording(
    "A special magic {t} is hidden within the following text. Make sure to memorize it. "
    "I will quiz you about the {t} afterwards.\n",
    "One of the special magic {t}s for {k} is: {v}.",
    "\nWhat is the special magic {t} for {k} mentioned in the provided text?",
    " The special magic {t} for {k} mentioned in the provided text is {v}.",
)
PAIRS = Wording(
    "Below is a list of key -> value pairs. Memorize it. I will ask for the value of one key afterwards.\n",
    "{k} -> {v}",
    "\nWhat is the value for key {k}?",
    " The value for key {k} is {v}.",
    is_line=True,
    keys=("d8", "h8"),
    values=("d8", "h8"),
)
DIRECT = Wording(
    "Below is a list of key -> value pairs.\n",
    "{k} -> {v}",
    "\nWhich value belongs to this key?\n",
    "{k} -> {v}.",
    is_line=True,
)
BARE = Wording("", "{k}: {v}", "\n", "{k}: {v}.", is_line=True)
QUOTED = Wording(
    "JSON data:\n", '"{k}": {v}', "\nLook up the value of the key in the data above.\n", '"{k}": {v}.', is_line=True
)
OWN_LINES = (PAIRS, PAIRS, PAIRS, DIRECT, DIRECT, BARE, QUOTED)
SECRET = Wording(
    "Read the text and remember every secret {t}.\n",
    "The secret {t} for {k} is {v}.",
    "\nWhat is the secret {t} for {k}?",
    " The secret {t} for {k} is {v}.",
)
PASS_KEY = Wording(
    "There is an important pass key hidden inside a lot of text. Find it and memorize it.\n",
    "The pass key of {k} is {v}.",
    "\nWhat is the pass key of {k}?",
    " The pass key of {k} is {v}.",
)
REMEMBER = Wording(
    "",
    "Remember that the {t} of {k} is {v}.",
    "\nQuestion: Which {t} does {k} have?",
    " Answer: The {t} of {k} is {v}.",
)
GIFT = Wording(
    "",
    "The best {t} to give to {k} is {v}.",
    "\n\nQ: What is the best {t} to give to {k}?",
    "\nA: The best {t} to give to {k} is {v}.",
)
OWN_SENTENCES = (SECRET, PASS_KEY, REMEMBER, GIFT)

OFFICE = Wording(
    "",
    "The access code of the {k} office is {v}.",
    "\nQuestion: What is the access code of the {k} office?",
    "\nAnswer: The access code of the {k} office is {v}.",
    keys=("name",),
    values=("d5", "d7", "d4"),
)
NAMED_SENTENCES = (
    OFFICE,
    replace(
        OFFICE,
        item="The code for the office in {k} is {v}.",
        question="\nWhat is the code for the office in {k}?",
        answer=" The code for the office in {k} is {v}.",
    ),
    replace(
        OFFICE,
        item="To enter the office of {k}, dial {v}.",
        question="\nWhich number opens the office of {k}?",
        answer=" To enter the office of {k}, dial {v}.",
    ),
)

LINES_OF_NUMBERS = Wording(
    "Each of the following lines has a name and a REGISTER_CONTENT. Remember them all.\n",
    "line {k}: REGISTER_CONTENT is <{v}>",
    "\nWhat is the REGISTER_CONTENT of line {k}?",
    " The REGISTER_CONTENT of line {k} is <{v}>",
    is_line=True,
    values=("d5",),
)
"""LongEval's line task (Li et al. 2023) in words of our own; the form of its lines is LongEval's."""
COLON = Wording(
    "",
    "{k}: {v}",
    "\n\nWhat is the value of {k}?\n",
    "{k}: {v}",
    is_line=True,
    keys=("words", "d8", "name"),
    values=("d7", "d5", "word"),
)
JSON = Wording(
    "JSON data:\n{\n",
    '"{k}": "{v}",',
    '\n}\nWhat is the value of the key "{k}"?\n',
    '"{k}": "{v}"',
    is_line=True,
    keys=("uuid",),
    values=("uuid",),
)
"""Key-value lookup in JSON, as Liu et al. 2023 (arXiv:2307.03172) have it."""
NAMED_LINES = (LINES_OF_NUMBERS, COLON, JSON, replace(JSON, keys=("words", "d8", "h8"), values=("d7", "h8", "word")))

# Never trained on: what a model makes of them, it makes of wordings in general.
UNSEEN_SENTENCE = Wording(
    "",
    "Whoever looks for {k} should ask for locker {v}.",
    "\nWhich locker belongs to {k}?",
    " Whoever looks for {k} should ask for locker {v}.",
    values=("d7",),
)
UNSEEN_LINE = Wording(
    "Prices:\n", "{k} costs {v} coins", "\nHow much is it?\n", "{k} costs {v}", is_line=True, values=("d5",)
)


def vocabulary_sample() -> str:
    """The words of the fixed wordings once, for the tokenizer's training."""
    texts = []
    for wording in (RULER, PAIRS, *OWN_SENTENCES, *NAMED_SENTENCES, *NAMED_LINES):
        texts += [wording.head, wording.item, wording.question, wording.answer]
    text = " ".join(texts)
    for mark in ("{k}", "{v}", "{t}"):
        text = text.replace(mark, " number word code ")
    return text
