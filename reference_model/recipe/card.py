"""The model card: README.md and its figure, from config.json and the records in `card/`. Never edited by hand.

card/data.json is `prepare`'s meta.json, card/training.jsonl the log of `train`, card/evaluation.json what `evaluate`
wrote. The text is a pure function of these files.
"""

import json
from pathlib import Path
from typing import Any

from reference_model.recipe.cells import LADDER

RECORDS = "card"
UNSEEN = "wordings that no training sample had (nor may have; the first weights' failure at them widened the grammar)"
FIGURE = "curves.svg"
Row = dict[str, Any]


def write_card(model: Path) -> None:
    """Write README.md and card/curves.svg in the folder `model`."""
    (model / "README.md").write_text(card(model))
    draw_curves(_log(model), model / RECORDS / FIGURE)


def card(model: Path) -> str:
    """The card's text, from the records in `model`."""
    config = json.loads((model / "config.json").read_text())
    data = json.loads((model / RECORDS / "data.json").read_text())
    evaluation = json.loads((model / RECORDS / "evaluation.json").read_text())
    parts = [_facts(config, data, _log(model)), _perplexity(evaluation), _retrieval(evaluation["retrieval"])]
    parts += [_ladder(evaluation["ladder"]), _overlap(data), _how(evaluation)]
    return "\n\n".join(part for part in parts if part) + "\n"


def draw_curves(log: list[Row], file: Path) -> None:
    """Losses and learning rate over tokens seen, as SVG; the same bytes for the same log and matplotlib."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.rcParams["svg.hashsalt"] = "reference_model"
    rows = [row for row in log if "text" in row]
    evaluations = [row for row in log if row.get("event") == "evaluation"]
    evaluated = [row["tokens"] / 1e6 for row in evaluations]
    figure = Figure(figsize=(8, 4), layout="constrained")
    losses, rate = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    seen = [row["tokens"] / 1e6 for row in rows]
    losses.plot(seen, [row["text"] for row in rows], label="natural text, training", linewidth=1)
    losses.plot(seen, [row["answer"] for row in rows], label="retrieval answers, training", linewidth=1)
    for name, label in (("books", "books, validation"), ("wiki", "WikiText-2, validation")):
        points = [row["validation"][name] for row in evaluations]
        losses.plot(evaluated, points, "o-", markersize=3, label=label, linewidth=1)
    losses.set(ylabel="loss, nats a token", ylim=(0, 6))
    losses.legend(frameon=False)
    rate.plot(seen, [row["rate"] for row in rows], color="grey", linewidth=1)
    rate.set(xlabel="million tokens seen", ylabel="rate", xlim=(0, None))
    figure.savefig(file, format="svg", metadata={"Date": None})


def _log(model: Path) -> list[Row]:
    return [json.loads(line) for line in (model / RECORDS / "training.jsonl").read_text().splitlines()]


def _facts(config: Row, data: Row, log: list[Row]) -> str:
    start = next(row for row in log if row.get("event") == "start")
    end = [row for row in log if row.get("event") == "end"][-1]
    stages = start["settings"]["stages"]
    parts = "; ".join(
        f"{batches:,} of {stage['rows']} × {stage['length']:,}"
        for batches, stage in zip(end["batches"], stages, strict=True)
    )
    tests = ", ".join(name.replace("_", " ").title() if "_" in name else name for name in data["exclusion"]["tests"])
    valid = data["validation"]
    begun = "from other weights" if start["settings"]["from_weights"] else "from scratch"
    books, wiki = data["tokens"]["books"] / 1e6, data["tokens"]["wiki"] / 1e6
    return f"""# Reference model

A small Llama trained from scratch, so that hosts without a model hub have real weights whose perplexity and retrieval
mean something. **For testing attention backends; not for use as a language model.**

This card is written by `python -m reference_model.recipe card` from `card/*.json`; edit those or the generator.

| | |
|---|---|
| architecture | `LlamaForCausalLM`: hidden {config["hidden_size"]}, intermediate {config["intermediate_size"]:,}, \
{config["num_hidden_layers"]} layers, head_dim {config["head_dim"]}, {config["num_attention_heads"]} query heads, \
{config["num_key_value_heads"]} KV head, RoPE θ {config["rope_theta"]:,.0f}, context \
{config["max_position_embeddings"]:,}, tied embeddings, {start["parameters"] / 1e6:.1f} M parameters, bf16 |
| tokenizer | byte-level BPE, {config["vocab_size"]:,} entries, every digit its own token; no BOS by default (id 1), \
EOS `</s>` (id 2) separates documents |
| data | {data["documents"]} public-domain English books ({books:.1f} M tokens), the {data["wikitext_articles"]} \
articles of WikiText-2 validation ({wiki:.2f} M), and synthetic retrieval samples with keys that no evaluation uses |
| settings chosen by | {valid["books"]} other books and {valid["articles"]} other articles of the same sources, \
set aside |
| training | {begun}, {start["device"]}, {end["clock"]:,.0f} s: {end["step"]:,} steps, \
{end["tokens"] / 1e6:,.0f} M tokens ({parts}); dropout {start["settings"]["dropout"]}, \
weight decay {start["settings"]["decay"]} |
| never trained on | {tests} |
| intended use | tests, demonstrations and comparisons of attention backends on hosts without a model hub |
| licence | Apache-2.0, as the rest of the repository |

![Losses during training](card/{FIGURE})

Three query heads and one KV head do not divide over several GPUs: tensor parallelism needs another model. It answers
MMLU at chance."""


def _perplexity(evaluation: Row) -> str:
    lines = [
        "## Perplexity",
        "| text | precision | window | tokens | a token | a word | bits a byte |",
    ]
    lines += ["|---|---|---|---|---|---|---|"]
    for dtype in ("float32", "bfloat16"):
        for text, windows in evaluation.get(f"perplexity {dtype}", {}).items():
            name = text.replace("_", " ").title() if "_" in text else text
            for window, row in windows.items():
                words = (
                    f"{row['word_perplexity']:.0f} | {row['bits_per_byte']:.3f}" if "word_perplexity" in row else "|"
                )
                cells = (name, dtype, f"{int(window):,}", f"{row['tokens']:,}", f"{row['token_perplexity']:.2f}", words)
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _retrieval(rows: list[Row]) -> str:
    dtype = min(row["model"] for row in rows)  # bfloat16, which is how the weights are shipped, where it is there
    rows = [row for row in rows if row["model"] == dtype]
    lengths = sorted({row["length"] for row in rows})
    smallest = min(row["n"] for row in rows)
    sections = []
    for group, title in (
        ("own", "its own wordings: the project's retrieval task and RULER's"),
        ("other", "other wordings"),
        ("unseen", UNSEEN),
    ):
        tasks = dict.fromkeys(row["task"] for row in rows if row["group"] == group)
        if not tasks:
            continue
        head = [f"### Retrieval, {title}", "| task | " + " | ".join(f"{n:,}" for n in lengths) + " |"]
        head.append("|---" * (len(lengths) + 1) + "|")
        for task in tasks:
            cells = {row["length"]: _cell(row) for row in rows if row["task"] == task and row["group"] == group}
            head.append(f"| {task} | " + " | ".join(cells.get(n, "") for n in lengths) + " |")
        sections.append("\n".join(head))
    intro = (
        "## Retrieval\nShare of prompts that greedy decoding answers exactly, with Wilson's 95 % interval, by prompt "
        "length in tokens:\nheld-out books as haystack, keys of words that were never in training (or of digits drawn "
        "afresh), "
        f"{smallest} prompts or more a cell, {dtype}."
    )
    return "\n\n".join([intro, *sections])


def _ladder(rows: list[Row]) -> str:
    models = list(dict.fromkeys(row["model"] for row in rows))
    names = {"exact": "exact", "int8-fp16": "INT8 (SageAttention)", "int4-fp16": "INT4 (the control)"}
    lines = [
        "## Difficulty",
        "One task made harder in one respect at a time, for the exact model, SageAttention, and INT4 attention, which "
        "is the control. Bold: below the exact model's interval.",
        "",
        "| harder by | | length | " + " | ".join(names[model] for model in models) + " |",
        "|---" * (3 + len(models)) + "|",
    ]
    for group, task, length in dict.fromkeys((row["group"], row["task"], row["length"]) for row in rows):
        same = {
            row["model"]: row for row in rows if (row["group"], row["task"], row["length"]) == (group, task, length)
        }
        cells = " | ".join(_beside(same, model) for model in models)
        lines.append(f"| {group} | {task} | {length:,} | {cells} |")
    measured = {(row["group"], row["task"], row["length"]) for row in rows}
    missing = [f"{c.task} ({c.length:,})" for c in LADDER if (c.group, c.task, c.length) not in measured]
    return "\n".join([*lines, *([f"\nNot measured: {', '.join(missing)}."] if missing else [])])


def _beside(same: dict[str, Row], model: str) -> str:
    if model not in same:
        return "not measured"
    row, exact = same[model], same.get("exact")
    below = exact is not None and row["high"] < exact["low"]
    return f"**{_cell(row)}**" if below else _cell(row)


def _overlap(data: Row) -> str:
    report = data["exclusion"]
    lines = [
        "## Test data in the training text",
        f"Paragraphs that share a run of 13 words with a test set, left out: "
        f"{report['paragraphs_removed']:,} paragraphs, {report['words_removed']:,} of {report['words']:,} words.",
        "",
        "| test set | its 13-grams | documents that equal a test file | 13-grams found | paragraphs | documents |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in report["tests"].items():
        counts = (found[key] for key in ("grams_in_test", "files_equal", "windows", "paragraphs", "documents"))
        lines.append(f"| {name} | " + " | ".join(f"{count:,}" for count in counts) + " |")
    return "\n".join(lines)


def _how(evaluation: Row) -> str:
    runs = dict.fromkeys(
        f"- {', '.join(run['plan']['parts'])}: {run['device']}, {run['plan']['dtype']}, torch {run['torch']}"
        for run in evaluation["runs"]
    )  # one that was taken up again counts once
    return "\n".join(["## How it was measured", "`python -m reference_model.recipe evaluate`, by transformers:", *runs])


def _cell(row: Row) -> str:
    return f"{row['right'] / row['n']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
