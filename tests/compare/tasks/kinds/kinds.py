"""Tasks of every kind of metric that lm-eval has, in few items, for models that answer by a hash."""

import datasets

N = 40


def documents(**_):
    rows = [
        {
            "question": f"Is {i} a prime?",
            "choices": ["no", "certainly, it is"],
            "answer": i % 2,
            "aliases": ["yes", f"{i} is"],
            "length": "short" if i % 2 else "long",
            "document": f"d{i}",
            "number": i,
        }
        for i in range(N)
    ]
    return {"test": datasets.Dataset.from_list(rows)}


def target(doc):
    return {"text": doc["aliases"], "start": doc["number"]}


def sentence(doc, results):
    """A reference and an answer of some words, as of a translation."""
    reference = " ".join(f"w{(doc['number'] * j) % 7}" for j in range(8))
    pair = (reference, reference if results[0] == "yes" else reference.replace("w1", "w2").replace("w3", "w4 w5"))
    return dict.fromkeys(("bleu", "chrf", "ter"), pair)


def instructions(doc, results):
    """As IFEval's: one to three instructions, each followed or not."""
    return {"followed": [results[0] == "yes", *[True] * (doc["number"] % 3)]}


def by_length(doc, results):
    """As RULER's: a score for the item's own length, −1 for the others."""
    own = "4096" if doc["number"] < N // 2 else "8192"
    return {"4096": -1.0, "8192": -1.0, "16384": -1.0} | {own: float(results[0] == "yes")}


def parsed(doc, results):
    """A score only where the answer could be parsed, and one that is NaN for every fifth item."""
    found = {"length_ratio": float("nan") if doc["number"] % 5 == 0 else len(results[0]) / 3}
    return found | ({"right": 1.0} if results[0] == "yes" else {})


def labels(doc, results):
    """Right answer and given one, as pairs."""
    pair = (doc["number"] % 3, doc["number"] % 3 if results[0] == "yes" else 0)
    return {"macro": pair, "ordered": pair}


def macro(items):
    """The mean over the classes of the share that was found: no mean of the items."""
    classes = {right for right, _ in items}
    return sum(
        sum(given == right for right, given in items if right == c) / sum(right == c for right, _ in items)
        for c in classes
    ) / len(classes)


def by_place(items):
    """Goes by the items' order."""
    return sum(place * (right == given) for place, (right, given) in enumerate(items)) / N
