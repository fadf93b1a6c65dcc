"""The evaluation table of the model card, from a checkpoint and `prepare`'s held-out text, with torch and transformers.

Retrieval is scored by teacher forcing: an answer is right where every token of it is the most likely one, which is when
greedy decoding gives it, at the cost of one pass. Intervals are Wilson's, at 95 %.
"""

import hashlib
import json
import lzma
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from statsmodels.stats.proportion import proportion_confint
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from reference_model.recipe.cells import LADDER, Cell, CellSamples, Sample, grid, in_order
from reference_model.recipe.damage import register
from reference_model.recipe.scoring import exact_matches, token_losses
from sage_eval.errors import UsageError

WINDOWS = (2048, 8192)
FIRST_ARTICLES = 20
BOOK_TOKENS = 65_536
SEED = 99


@dataclass(frozen=True)
class Plan:
    """`parts` of perplexity, retrieval, ladder; `articles` 0 is all of WikiText-2 test."""

    parts: tuple[str, ...]
    dtype: str
    samples: int
    lengths: tuple[int, ...]
    articles: int = 0
    seconds: float = 1e9
    workers: int = 0


class Checkpoint:
    """A Hugging Face checkpoint as `scoring` sees a model; `attention` is a name of transformers'."""

    def __init__(self, folder: Path, dtype: str, attention: str = "sdpa") -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cuda.matmul.allow_tf32 = False
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
        self._model = loaded.to(self.device).eval()
        self._mask_needed = attention != "sdpa"

    def states(self, ids: Tensor, lengths: Tensor) -> Tensor:
        mask = None
        if self._mask_needed:  # exact causal attention does not see what is padded on the right
            mask = (torch.arange(ids.shape[1]) < lengths[:, None]).to(self.device)
        return cast(Tensor, self._model.model(ids, attention_mask=mask, use_cache=False).last_hidden_state)

    def head(self, states: Tensor) -> Tensor:
        return cast(Tensor, self._model.lm_head(states).float())


class Evaluation:
    """Results in `file`, written after each; what is there already is not computed again.

    Raises `UsageError` where `file` is of other weights, or its ladder of another dtype than the plan's.
    """

    def __init__(self, model: Path, data: Path, file: Path, plan: Plan) -> None:
        self.model, self.data, self.file, self.plan = model, data, file, plan
        self.begun = time.monotonic()
        weights = weights_hash(model)
        self.results: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {"weights": weights}
        if self.results.get("weights") != weights:
            raise UsageError(f"{file} is an evaluation of other weights than those in {model}: choose another --out")
        runs = self.results.setdefault("runs", [])
        if "ladder" in plan.parts and any(
            "ladder" in run["plan"]["parts"] and run["plan"]["dtype"] != plan.dtype for run in runs
        ):
            raise UsageError(f"the ladder in {file} is not in {plan.dtype}: choose another --out or --dtype")
        runs.append(
            {
                "plan": {**asdict(plan), "parts": list(plan.parts), "lengths": list(plan.lengths)},
                "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
                "torch": torch.__version__,
            }
        )
        with lzma.open(data / "held_out.json.xz", "rt", encoding="utf-8") as text:
            self.held_out = json.load(text)
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.exact = Checkpoint(model, plan.dtype)

    def run(self) -> None:
        """The plan's parts, in its order."""
        for part in self.plan.parts:
            getattr(self, part)()
        self.results["runs"][-1]["seconds"] = round(time.monotonic() - self.begun)
        self._write()

    def perplexity(self) -> None:
        """WikiText-2 test as lm-eval's `wikitext` scores it, windows disjoint; and the held-out books."""
        found = self.results.setdefault(f"perplexity {self.plan.dtype}", {})
        articles = self.held_out["wikitext"][: self.plan.articles or None]
        for window in WINDOWS:
            sums = (
                [self._article(article, window) for article in articles] if self._time_left(found, str(window)) else []
            )
            for name, some in (("", sums), (f" first {FIRST_ARTICLES}", sums[:FIRST_ARTICLES])):
                if some and (not name or len(sums) > FIRST_ARTICLES):
                    key = f"WikiText-2 test, first {len(some)} articles" if len(some) < 62 else "WikiText-2 test"
                    loss, tokens, words, size = np.sum(some, axis=0)
                    found.setdefault(key, {})[str(window)] = {
                        "tokens": int(tokens), "token_perplexity": math.exp(loss / tokens),
                        "word_perplexity": math.exp(loss / words), "bits_per_byte": loss / size / math.log(2),
                    }  # fmt: skip
                    self._write()
        for name, text in self.held_out["books"].items():
            if self._time_left(found, name):
                ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:BOOK_TOKENS]
                losses = [
                    token_losses(self.exact, ids[at : at + WINDOWS[-1]]) for at in range(0, len(ids), WINDOWS[-1])
                ]
                loss = torch.cat(losses)
                found[name] = {str(WINDOWS[-1]): {"tokens": len(loss), "token_perplexity": float(loss.mean().exp())}}
                self._write()

    def retrieval(self) -> None:
        """Every wording at every length."""
        self._cells("retrieval", grid(self.plan.lengths), {self.plan.dtype: self.exact})

    def ladder(self) -> None:
        """The difficulty ladder, exactly and with attention quantised to 8 and 4 bits."""
        models = {"exact": self.exact}
        for variant in ("int8-fp16", "int4-fp16"):
            models[variant] = Checkpoint(self.model, self.plan.dtype, register(variant))
        self._cells("ladder", list(LADDER), models)

    def _cells(self, part: str, cells: list[Cell], models: dict[str, Checkpoint]) -> None:
        found = self.results.setdefault(part, [])
        have = {
            (row["group"], row["task"], row["length"], row["model"]) for row in found if row["n"] >= self.plan.samples
        }
        cells = [c for c in cells if any((c.group, c.task, c.length, name) not in have for name in models)]
        made = CellSamples(cells, str(self.model / "tokenizer.json"), list(self.held_out["books"].values()),
                           self.plan.samples, SEED)  # fmt: skip
        for cell, samples in zip(cells, in_order(made, self.plan.workers), strict=True):
            for name, model in models.items():
                if (cell.group, cell.task, cell.length, name) in have:
                    continue
                if time.monotonic() - self.begun > self.plan.seconds:
                    return
                found.append(self._row(cell, samples, name, model))
                self._write()

    def _row(self, cell: Cell, samples: list[Sample], name: str, model: Checkpoint) -> dict[str, Any]:
        begun = time.monotonic()
        right = exact_matches(model, samples)
        low, high = proportion_confint(sum(right), len(right), method="wilson")
        seconds = round(time.monotonic() - begun, 1)
        tokens = round(sum(len(prompt) + len(answer) for prompt, answer in samples) / len(samples))
        row = {"group": cell.group, "task": cell.task, "length": cell.length, "model": name, "n": len(right),
               "right": sum(right), "low": float(low), "high": float(high), "mean_tokens": tokens}  # fmt: skip
        sys.stderr.write(f"{row} in {seconds} s\n")
        return row

    def _article(self, article: dict[str, Any], window: int) -> tuple[float, int, int, int]:
        """Loss, tokens, words and bytes; each token predicted once, the last window filled up with context."""
        ids = [self.tokenizer.bos_token_id]
        ids += self.tokenizer(article["text"], add_special_tokens=False, verbose=False)["input_ids"]
        loss = 0.0
        for begin in range(0, len(ids) - 1, window):
            end = min(begin + window + 1, len(ids))
            losses = token_losses(self.exact, ids[max(0, end - window - 1) : end])
            loss += float(losses[-(end - begin - 1) :].sum())
        return loss, len(ids) - 1, article["words"], article["bytes"]

    def _time_left(self, found: dict[str, Any], key: str) -> bool:
        known = key in found or any(key in windows for name, windows in found.items() if name.startswith("WikiText"))
        return not known and time.monotonic() - self.begun < self.plan.seconds

    def _write(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        new = self.file.with_suffix(".new")
        new.write_text(json.dumps(self.results, indent=1) + "\n")
        new.replace(self.file)


def weights_hash(model: Path) -> str:
    """SHA-256 of the weights in the folder `model`, file by file in the order of their names."""
    digest = hashlib.sha256()
    for file in sorted(model.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def evaluate(model: Path, data: Path, file: Path, plan: Plan) -> None:
    """Carry out `plan` on the checkpoint `model` and write `file`, or add to it; raises as `Evaluation` does."""
    Evaluation(model, data, file, plan).run()
