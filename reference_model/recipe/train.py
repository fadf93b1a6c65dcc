"""Training in stages: seeded, restartable, and as long as a number of steps or of minutes.

With `steps` the schedule is a function of the step, and an interrupted run, taken up again, ends in the same weights as
an uninterrupted one (bit for bit on a CPU). With `minutes` the schedule runs on a clock of training time, which leaves
out compilation and evaluation, so that a run fits a command of known length; the log says how many steps it came to.
"""

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.utils.data import DataLoader

from reference_model.recipe.arrays import read_array
from reference_model.recipe.cells import OTHER, OWN, CellSamples, Sample, in_order
from reference_model.recipe.curriculum import Batches, Corpus, Stage
from reference_model.recipe.export import read_shards, write_shards
from reference_model.recipe.model import Llama
from reference_model.recipe.optimizer import Optimizer
from reference_model.recipe.scoring import exact_matches, token_losses
from reference_model.recipe.settings import Settings
from reference_model.recipe.speed import choose_attention, loss_function
from reference_model.recipe.text import flatten
from reference_model.recipe.words import Words
from sage_eval.errors import UsageError

STATE = "state.pt"
VALIDATION_TOKENS = 65_536
"""Of books, and of WikiText-2, each time."""


def read_corpus(folder: Path) -> Corpus:
    """The arrays and words of `prepare`."""
    books, wiki, wiki_raw = (read_array(folder / f"{name}.u16.xz") for name in ("books", "wiki", "wiki_raw"))
    words = Words(**json.loads((folder / "words.json").read_text()))
    return Corpus(Tokenizer.from_file(str(folder / "tokenizer.json")), books, wiki, wiki_raw, words)


class Run:
    """One process's part of a training run."""

    def __init__(self, settings: Settings) -> None:
        if bool(settings.steps) == bool(settings.minutes):
            raise UsageError("give the schedule's length as steps or as minutes, one of the two")
        self.begun = time.monotonic()
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        settings.out.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self.step = self.tokens = self.least = 0
        self.clock = 0.0
        self.done = [0] * len(settings.stages)  # batches used, by stage
        state_file = settings.out / STATE
        state = torch.load(state_file, map_location="cpu", weights_only=True) if state_file.is_file() else None
        if state:
            self.step, self.tokens, self.least = state["step"], state["tokens"], state["least"]
            self.clock, self.done = state["clock"], state["done"]
        # Worker processes are forked before CUDA starts.
        corpus = read_corpus(settings.data)
        self.loaders = [self._batches(corpus, number) for number in range(len(settings.stages))]
        self.validation = {name: read_array(settings.data / f"valid_{name}.u16.xz") for name in ("books", "wiki")}
        self.cells = self._cells(corpus) if settings.evaluate_every < 1e9 else []

        cuda = torch.cuda.is_available()
        self.device = torch.device("cuda" if cuda else "cpu")
        dtype = torch.bfloat16 if cuda else torch.float32
        self.model = Llama(settings.shape, settings.seed, dtype).to(self.device)
        self.optimizer = Optimizer(self.model, settings.rate, settings.decay)
        if state:
            self.model.load_checkpoint(state["model"])
            self.optimizer.load_state(state["optimizer"])
        elif settings.start:
            self.model.load_checkpoint(read_shards(settings.start))
        self.log(
            event="start",
            parameters=sum(p.numel() for p in self.model.parameters()),
            step=self.step,
            corpus_tokens=len(corpus.books),
            device=torch.cuda.get_device_name() if cuda else "CPU",
            torch=torch.__version__,
            settings=settings.told(),
        )
        self.log(event="attention", seconds=choose_attention(self.model))
        self.losses = loss_function(self.model)

    def train(self) -> bool:
        """Train to the end of the schedule, or as far as this process may; save. True at the end of the schedule."""
        settings, stages = self.settings, self.settings.stages
        ends = list(accumulate(stage.share for stage in stages))
        self._compile()
        sums = torch.zeros(6, dtype=torch.float64, device=self.device)
        current, evaluated, tick = -1, self.clock, time.monotonic()
        finished = False
        while not (finished := self.progress >= 1):
            number = max(self.least, next((i for i, end in enumerate(ends) if self.progress < end), len(ends) - 1))
            if number != current:
                current = number
                self._set_dropout(stages[number])
                self.log(event="stage", name=stages[number].name, step=self.step, clock=round(self.clock, 1))
            ids, weights = next(self.loaders[number])
            self.done[number] += 1
            torch.manual_seed(hash((settings.seed, self.step)))  # dropout's: the same after a restart
            parts = self.losses(ids, weights)
            (parts[0] / parts[1]).backward()  # type: ignore[no-untyped-call]
            rate = self.optimizer.step(self.progress, self.step)
            sums += parts.detach()
            self.step += 1
            self.tokens += ids.shape[0] * (ids.shape[1] - 1)
            if self.step % 20 == 0:
                self._synchronize()
                now = time.monotonic()
                self.clock += now - tick
                tick = now
                if self.step % 100 == 0:
                    answer_loss = self._log_losses(stages[number], rate, sums)
                    self.least = number + 1 if answer_loss < stages[number].leave else self.least
                if self.clock - evaluated > settings.evaluate_every:
                    self.evaluate()
                    evaluated, tick = self.clock, time.monotonic()
            if self.step >= settings.stop_at or time.monotonic() - self.begun > settings.seconds:
                break
        self.save()
        if self.cells:
            self.evaluate()
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else 0.0
        self.log(event="end", finished=finished, step=self.step, tokens=self.tokens, batches=self.done,
                 clock=round(self.clock, 1), peak_gib=round(peak, 1))  # fmt: skip
        return finished

    @property
    def progress(self) -> float:
        """Share of the schedule that is done."""
        settings = self.settings
        return self.step / settings.steps if settings.steps else self.clock / (60 * settings.minutes)

    def log(self, **entry: Any) -> None:
        """A line of log.jsonl; events also go to standard error."""
        line = json.dumps({**entry, "wall": round(time.monotonic() - self.begun, 1)})
        with (self.settings.out / "log.jsonl").open("a") as file:
            file.write(line + "\n")
        if "event" in entry or self.step % 500 == 0:
            os.write(2, (line[:600] + "\n").encode())

    def save(self) -> None:
        """Shards in bf16, and the state that a restart takes up."""
        self._synchronize()
        checkpoint = self.model.checkpoint()
        state = {"model": checkpoint, "optimizer": self.optimizer.state(), "step": self.step, "tokens": self.tokens,
                 "least": self.least, "clock": self.clock, "done": self.done}  # fmt: skip
        torch.save(state, self.settings.out / (STATE + ".new"))
        (self.settings.out / (STATE + ".new")).replace(self.settings.out / STATE)
        write_shards({name: tensor.bfloat16() for name, tensor in checkpoint.items()}, self.settings.out)

    def evaluate(self) -> None:
        """Log the validation losses and the retrieval cells."""
        begun = time.monotonic()
        self.model.eval()
        view = TrainingView(self.model, self.device)
        losses = {}
        for name, ids in self.validation.items():
            length = min(2048, self.settings.shape.max_position_embeddings, len(ids) - 1)
            whole = range(0, min(VALIDATION_TOKENS, len(ids) - 1) // length * length, length)
            rows = [ids[start : start + length + 1] for start in whole]
            losses[name] = round(float(torch.cat([token_losses(view, row) for row in rows]).mean()), 4)
        found: dict[str, list[float]] = {}
        for cell, samples in self.cells:
            matches = exact_matches(view, samples)
            found.setdefault(cell, []).append(round(sum(matches) / len(matches), 3))
        self.model.train()
        self.log(event="evaluation", step=self.step, clock=round(self.clock, 1), tokens=self.tokens,
                 validation=losses, retrieval=found, took=round(time.monotonic() - begun, 1))  # fmt: skip

    def _batches(self, corpus: Corpus, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        settings = self.settings
        batches = Batches(corpus, settings.stages[number], number, settings.seed)
        return iter(
            DataLoader(
                batches,
                batch_size=None,
                sampler=range(self.done[number], len(batches)),
                num_workers=settings.workers,
                prefetch_factor=3 if settings.workers else None,
                pin_memory=torch.cuda.is_available(),
            )
        )

    def _cells(self, corpus: Corpus) -> list[tuple[str, list[Sample]]]:
        """With validation's text and training's words: how a run goes is no matter of the test data."""
        context = self.settings.shape.max_position_embeddings
        lengths = [length for length in (1024, 4096, 8192) if length <= context] or [context]
        cells = [dataclasses.replace(cell, length=length) for cell in (*OWN, *OTHER) for length in lengths]
        book = flatten(corpus.tokenizer.decode(self.validation["books"].tolist()))
        made = CellSamples(cells, str(self.settings.data / "tokenizer.json"), [book], 32, seed=1234, words=corpus.words)
        samples = in_order(made, self.settings.workers)
        return [(cell.task, found) for cell, found in zip(cells, samples, strict=True)]

    def _compile(self) -> None:
        """Every shape once, before the clock starts."""
        if self.device.type == "cuda":
            for stage in self.settings.stages:
                self._set_dropout(stage)
                ids = torch.full((stage.rows, stage.length + 1), 3, dtype=torch.uint16)
                parts = self.losses(ids, torch.full(ids.shape, 8, dtype=torch.uint8))
                (parts[0] / parts[1]).backward()  # type: ignore[no-untyped-call]
                self.model.zero_grad(set_to_none=True)
            self._synchronize()
        self.log(event="compiled")

    def _set_dropout(self, stage: Stage) -> None:
        self.model.set_dropout(self.settings.dropout if stage.dropout else 0.0)

    def _log_losses(self, stage: Stage, rate: float, sums: Tensor) -> float:
        total, weight, text, text_count, answer, answer_count = sums.tolist()
        sums.zero_()
        answer_loss = answer / answer_count if answer_count else 9.9
        self.log(
            step=self.step,
            clock=round(self.clock, 1),
            stage=stage.name,
            rate=round(rate, 6),
            tokens=self.tokens,
            loss=round(total / weight, 4),
            text=round(text / max(text_count, 1), 4),
            answer=round(answer_loss, 4),
        )
        return float(answer_loss)

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


@dataclass
class TrainingView:
    """The model in training, as `scoring` sees one."""

    model: Llama
    device: torch.device

    def states(self, ids: Tensor, lengths: Tensor) -> Tensor:
        del lengths  # causal attention: what is padded on the right changes nothing before it
        return self.model.hidden(ids)

    def head(self, states: Tensor) -> Tensor:
        return self.model.logits(states).float()
