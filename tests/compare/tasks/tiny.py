"""Three small data sets, made up on the spot."""

import datasets

SUBJECTS = ("colour", "number")


def choices(**_):
    rows = [
        {
            "subject": SUBJECTS[i % 2],
            "question": f"Which is the {i}th letter?",
            "choices": list("ABCD"),
            "answer": i % 4,
        }
        for i in range(80)
    ]
    return {"test": datasets.Dataset.from_list(rows)}


def pages(**_):
    rows = [{"page": " ".join(f"w{(i * j) % 17}" for j in range(20 + 3 * i))} for i in range(40)]
    return {"test": datasets.Dataset.from_list(rows)}


def needles(**_):
    rows = [
        {"family": "single", "length": length, "depth": depth, "question": f"{length} {depth} {i}?", "answer": "yes"}
        for length in (512, 1024)
        for depth in (0.0, 0.5, 1.0)
        for i in range(10)
    ]
    return {"test": datasets.Dataset.from_list(rows)}


def page_results(doc, results):
    pair = (results[0], len(doc["page"].split()))
    return {"word_perplexity": pair, "bits_per_byte": (results[0], len(doc["page"].encode()))}


def found(doc, results):
    return {"acc": float(doc["answer"] in results[0])}
