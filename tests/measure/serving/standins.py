"""Arms whose times are formulas, and a clock that they alone move."""

from sage_eval.errors import EngineError

LENGTHS = (1024, 4096, 8192, 65536)


class Bench:
    """Starts stand-ins for arms and notes what they are asked.

    `speed` divides the time, `broken` fails at a length, `compiles` are (arm, length) whose first run takes 9 s more,
    what is `blind` cannot be profiled, and (arm, length) that are `fatal` end their process when they are. No engine
    may be timed once it was profiled. `clock` goes on by what the runs took, and by nothing else.
    """

    def __init__(self, speed, broken=None, compiles=(), blind=(), fatal=()):
        self.speed, self.broken, self.compiles = speed, broken or {}, set(compiles)
        self.blind, self.fatal = blind, fatal
        self.asked, self.profiled, self.started, self.alive = [], [], [], []
        self.limits, self.limited_at = [], []
        self.profile_seeds = []
        self.now = 0.0

    def clock(self):
        return self.now

    def seconds(self, name, length):
        return (1e-5 * length + 1e-9 * length**2) / self.speed[name]

    def start(self, name):
        self.profiled = [found for found in self.profiled if found[0] != name]
        return StandIn(self, name)


class StandIn:
    def __init__(self, bench, name):
        self.bench, self.name = bench, name
        bench.started.append(name)
        bench.alive.append(name)

    def ready(self):
        if self.bench.broken.get(self.name) == "start":
            raise EngineError("it does not start")
        memory = {"weights": 1, "kv_cache": 2, "kv_tokens": 1}
        return {"engine": {"chunked_prefill_size": 2048}, "memory": memory}, 1.0

    def ask(self, do, *, within, length=0, seed=0, **command):
        if do != "coverage":
            self.bench.limits.append(within)
            self.bench.limited_at.append(self.bench.now)
        length = length or sum(prompt for prompt, _ in command.get("mix", ()))
        if do == "memory":
            return {"allocated": 100, "peak_allocated": 150, "kv_cache": 2}
        if do == "coverage":
            return {"prefill/some": len(self.bench.asked)}
        if do == "profile":
            self.bench.profiled.append((self.name, command["kind"], length or command["requests"]))
            self.bench.profile_seeds.append(seed)
            self.bench.now += self.bench.seconds(self.name, length)
            if (self.name, length) in self.bench.fatal:
                raise EngineError("it ended")
            if self.name in self.bench.blind:
                return {"error": "no kernel"}
            return {"seconds": {"attention": 1e-3, "products": 2e-3, "other": 0.0, "idle": 1e-3}}
        assert not any(name == self.name for name, *_ in self.bench.profiled), "timed after it was profiled"
        if self.bench.broken.get(self.name) == length:
            raise EngineError("it broke off")
        self.bench.asked.append((self.name, length, seed))
        extra = 9.0 if (self.name, length) in self.bench.compiles else 0.0
        self.bench.compiles.discard((self.name, length))
        seconds = self.bench.seconds(self.name, length) + extra
        self.bench.now += seconds
        return seconds

    def dismiss(self):
        pass

    def close(self):
        self.bench.alive.remove(self.name)
