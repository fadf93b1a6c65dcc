"""An lm-eval model for tests of the runner: a real `LM` class that needs no engine and can be told to fail.

`TEST_FAULT=<backend>:<fault>` makes the arm of that backend `kill` itself, `hang`, compute and be `deaf` to SIGTERM, or
give `nan`; an arm that does not end writes its pid and that of a child of its own, which ignores SIGTERM, to the file
`TEST_PIDS`.
"""

import hashlib
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import transformers
from lm_eval.api.model import LM

from sage_eval.engine.topk import TextWindow, TopK


def _unit(*parts) -> float:
    """A number in [0, 1) that depends on the parts only."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


class HashLM(LM):
    """Deterministic answers from the prompt; the candidate's differ a little, as another kernel's would."""

    def __init__(self, attention_backend="plain", **_ignored) -> None:
        super().__init__()
        self.backend = attention_backend
        backend, _, fault = os.environ.get("TEST_FAULT", ":").partition(":")
        self.fault = fault if backend == attention_backend else ""

    def _score(self, *parts) -> float:
        if self.fault == "nan":
            return float("nan")
        return -10 * _unit("model", *parts) + 0.02 * _unit(self.backend, *parts)

    def loglikelihood(self, requests):
        if self.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if self.fault in ("hang", "deaf"):
            _hang()
        return self._told(requests, lambda request: (self._score(*request.args), False))

    def loglikelihood_rolling(self, requests):
        return self._told(requests, lambda request: self._score(*request.args) * len(request.args[0]) / 10)

    def generate_until(self, requests):
        return self._told(requests, lambda request: "yes" if _unit(self.backend, request.args[0]) < 0.9 else "no")

    def _told(self, requests, answer):
        """The answers, of which lm-eval's cache hears one by one, the last request's first."""
        answers = [answer(request) for request in requests]
        for request, found in reversed([*zip(requests, answers, strict=True)]):
            self.cache_hook.add_partial(request.request_type, request.args, found)
        return answers

    def get_model_info(self):
        tokens = {f"prefill/{self.backend}": 1000.0, f"decode/{self.backend}": 50.0}
        return {"attention_backend": self.backend, "coverage": {"tokens": tokens, "cached_tokens": 0, "counted": True}}


class TextLM(HashLM):
    """A model over a vocabulary of words 0 to 49 that also keeps the `top_logprobs` best at each place of a text."""

    WORDS, WINDOW = 50, 7

    def __init__(self, top_logprobs=0, attention_backend="plain", **given) -> None:
        super().__init__(attention_backend, **given)
        self.top_logprobs, self.text_windows = top_logprobs, []

    def loglikelihood_rolling(self, requests):
        return [math.fsum(self._window(r, start) for start in range(0, 20, self.WINDOW)) for r in requests]

    def distributions(self, text, places):
        """Log-probabilities in nats, [places, WORDS]."""
        values = [[3 * _unit(text, i, j) + 0.1 * _unit(self.backend, i, j) for j in range(self.WORDS)] for i in places]
        return np.array(values) - np.log(np.exp(values).sum(axis=1, keepdims=True))

    def _window(self, request, start) -> float:
        places = range(start, min(start + self.WINDOW, 20))
        rows = self.distributions(request.args[0], places)
        targets = np.array([int(self.WORDS * _unit(request.args[0], place)) for place in places], np.int32)
        scores = rows[np.arange(len(places)), targets]
        if self.top_logprobs:
            ids = np.argsort(-rows, axis=1)[:, : self.top_logprobs]
            best = TopK(ids.astype(np.int32), np.take_along_axis(rows, ids, axis=1).astype(np.float32))
            where = (request.task_name, request.doc_id, start, 1, f"{request.args[0]}{start}")
            self.text_windows.append(TextWindow(*where, targets, scores.astype(np.float32), best))
        return float(scores.sum())


class PlantedLM(LM):
    """A good model with planted damage: `loss` where `sage_attn` quantises to INT8, `damage` where it does to INT4, and
    `stress` · (s - 1) more for INT8 on a checkpoint under outlier stress of dose s.

    Damage d takes away the share d of the right answers and adds d nats a word; without any, two arms give the same
    answers but for `noise` nats a word.
    """

    def __init__(
        self, attention_backend="plain", variant=None, loss=0.0, damage=0.3, noise=0.0, stress=0.0, **given
    ) -> None:
        super().__init__()
        self.backend, self.variant, self.noise, self.given = attention_backend, variant, noise, given
        self.damage = {"int8-fp16": loss, "int4-fp16": damage}.get(variant, 0.0)
        checkpoint = Path(given.get("pretrained", ""))
        if variant == "int8-fp16" and checkpoint.parent.name == "stress":
            self.damage += stress * (int(checkpoint.name) - 1)

    def _right(self, prompt: str) -> bool:
        return _unit("model", prompt) < 0.9 and _unit("damage", prompt) >= self.damage

    def loglikelihood(self, requests):
        answers = []
        for prompt, choice in (request.args for request in requests):
            right = "ABCD"[int("".join(filter(str.isdigit, prompt))) % 4]
            chosen = right if self._right(prompt) else "ABCD"["ABCD".index(right) - 1]
            answers.append((-0.1 if choice.strip() == chosen else -3.0, False))
        return answers

    def loglikelihood_rolling(self, requests):
        words = [(len(request.args[0].split()), request.args[0]) for request in requests]
        return [
            -n * (3 + _unit("model", text) + self.damage + self.noise * (_unit(self.backend, self.variant, text) - 0.5))
            for n, text in words
        ]

    def generate_until(self, requests):
        return ["yes" if self._right(request.args[0]) else "no" for request in requests]

    def get_model_info(self):
        tokens = {f"prefill/{self.backend}": 1000.0, f"decode/{self.backend}": 50.0}
        return {"attention_backend": self.backend, "coverage": {"tokens": tokens, "cached_tokens": 0, "counted": True}}


def _hang() -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child.stdout.read(1)
    target = Path(os.environ["TEST_PIDS"])
    target.with_suffix(".tmp").write_text(f"{os.getpid()} {child.pid}")
    target.with_suffix(".tmp").rename(target)
    time.sleep(600)


class ChatLM(HashLM):
    """With the tokenizer of the model's folder, whose chat templates it applies."""

    def __init__(self, pretrained, **given) -> None:
        super().__init__(**given)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(pretrained)

    tokenizer_name = "tiny"

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
        return self.tokenizer.apply_chat_template(chat_history, tokenize=False)
