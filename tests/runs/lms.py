"""lm-eval models for tests of the runner: real `LM` classes that need no engine."""

import hashlib
import os
import signal
import subprocess
import sys
import time

from lm_eval.api.model import LM


def _unit(*parts) -> float:
    """A number in [0, 1) that depends on the parts only."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


class HashLM(LM):
    """Deterministic answers from the prompt; the candidate's differ a little, as another kernel's would."""

    def __init__(self, attention_backend=None, amplitude=0.02, **_ignored) -> None:
        super().__init__()
        self.backend = attention_backend or "plain"
        self.amplitude = amplitude if attention_backend else 0.0

    def _score(self, *parts) -> float:
        return -10 * _unit("model", *parts) + self.amplitude * (_unit(self.backend, *parts) - 0.5)

    def loglikelihood(self, requests):
        return [(self._score(*request.args), False) for request in requests]

    def loglikelihood_rolling(self, requests):
        return [self._score(*request.args) * len(request.args[0]) / 10 for request in requests]

    def generate_until(self, requests):
        return ["yes" if _unit(self.backend, request.args[0]) < 0.9 else "no" for request in requests]

    def get_model_info(self):
        tokens = {f"prefill/{self.backend}": 1000.0, f"decode/{self.backend}": 50.0}
        return {"attention_backend": self.backend, "coverage": {"tokens": tokens, "cached_tokens": 0, "counted": True}}


class CrashingLM(HashLM):
    """The candidate's engine dies without a word."""

    def loglikelihood_rolling(self, requests):
        if self.backend == "sage_attn":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().loglikelihood_rolling(requests)


class HangingLM(HashLM):
    """The candidate hangs, with a child process of its own that ignores SIGTERM; both pids go to a file."""

    def loglikelihood_rolling(self, requests):
        if self.backend == "sage_attn":
            code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
            child = subprocess.Popen([sys.executable, "-c", code])
            with open(os.environ["TEST_PIDS"] + ".tmp", "w") as file:
                file.write(f"{os.getpid()} {child.pid}")
            os.rename(os.environ["TEST_PIDS"] + ".tmp", os.environ["TEST_PIDS"])
            time.sleep(600)
        return super().loglikelihood_rolling(requests)


class NanLM(HashLM):
    """A broken kernel."""

    def loglikelihood_rolling(self, requests):
        return [float("nan") for _ in requests]
