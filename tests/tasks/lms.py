"""A language model for tests: its answers depend on the request alone, so two runs can be compared."""

import hashlib
from typing import Any

from lm_eval.api.model import LM


class HashLM(LM):
    """Log-likelihoods that follow the length of the text, with noise from its hash; it keeps the requests it gets."""

    def __init__(self, generated: str = "") -> None:
        super().__init__()
        self.generated = generated
        self.requests: list[tuple[Any, ...]] = []

    def _noise(self, text: str) -> float:
        return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 16**8

    def loglikelihood(self, requests: Any) -> list[tuple[float, bool]]:
        self.requests += [request.args for request in requests]
        return [
            (-len(cont) * (0.4 + 0.2 * self._noise(context + cont)), False)
            for context, cont in (r.args for r in requests)
        ]

    def loglikelihood_rolling(self, requests: Any) -> list[float]:
        self.requests += [request.args for request in requests]
        return [-len(text) * (0.4 + 0.2 * self._noise(text)) for (text,) in (r.args for r in requests)]

    def generate_until(self, requests: Any) -> list[str]:
        self.requests += [request.args for request in requests]
        return [self.generated] * len(requests)

    def apply_chat_template(self, chat_history: Any, add_generation_prompt: bool = True) -> str:
        return "".join(f"<{message['role']}>{message['content']}" for message in chat_history)

    @property
    def tokenizer_name(self) -> str:
        return "none"

    def chat_template(self, chat_template: Any = False) -> str:
        return "<role>content"


def evaluate(tasks: dict[str, Any], lm: LM, **arguments: Any) -> dict[str, Any]:
    """lm-eval's own evaluation of loaded tasks."""
    import lm_eval

    for task in tasks["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
    return lm_eval.evaluate(lm=lm, task_dict=tasks, **arguments)
