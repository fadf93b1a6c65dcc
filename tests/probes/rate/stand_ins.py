"""Servers and a load generator whose times and failures are given: no engine."""

from sage_eval.errors import EngineError
from sage_eval.probes.rate.client import GeneratorError, UnansweredError
from sage_eval.probes.rate.record import Result


class Bench:
    """Stands in for servers and the load generator, and notes what is sent where.

    `broken` maps an arm to "start", "small cache", "hangs", or to the rate at which its requests fail; at the rate
    `deadly` it is the generator that ends.
    """

    def __init__(self, broken=None, deadly=0.0):
        self.broken, self.deadly = broken or {}, deadly
        self.sent, self.alive, self.patience, self.generators = [], [], [], 0

    def start(self, name, order, logs):
        self.alive.append(name)
        return StandIn(self, name)

    def generator(self, logs, words, scratch):
        assert (words / "tokenizer.json").exists()
        self.alive.append("generator")
        self.generators += 1
        return StandIn(self, "generator")


class StandIn:
    def __init__(self, bench, name):
        self.bench, self.name, self.url, self.up = bench, name, name, False

    def ready(self):
        assert not self.up  # a process says so once
        self.up = True
        if self.bench.broken.get(self.name) == "start":
            raise EngineError("it does not start")
        tokens = 100 if self.bench.broken.get(self.name) == "small cache" else 1_000_000
        engine = {"chunked_prefill_size": 2048, "max_total_num_tokens": tokens}
        return {"engine": engine, "command": "python -m sglang.launch_server"}, 1.0

    def run(self, load, url, within):
        self.bench.patience.append(within)
        if load.rate == self.bench.deadly:
            raise GeneratorError("the load generator ended")
        if self.bench.broken.get(url) == "hangs":
            raise UnansweredError("not answered in time")
        if url in self.bench.broken and self.bench.broken[url] == load.rate:
            raise EngineError("1 of 4 requests failed")
        self.bench.sent.append((url, load.rate, load.seed, load.requests))
        times = [0.1] * load.requests
        return Result(seconds=5.0, input_tokens=1, output_tokens=1, ttft=times, latency=times, itl={})

    def explain(self, error):
        return EngineError(f"arm {self.name}: {error}")

    def freeze_gc(self):
        self.bench.sent.append((self.name, "freeze"))

    def coverage(self):
        return {"prefill/some": len(self.bench.sent)}

    def close(self):
        self.bench.alive.remove(self.name)


def shown(record):
    return [("".join(block.results), block.rate, block.repeat) for block in record.blocks]
