"""What to measure, and with which engine settings, decided before any engine is started."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sage_eval.errors import UsageError
from sage_eval.probes.arms import BenchArm
from sage_eval.probes.residents import fitting, groups
from sage_eval.probes.serving import mix
from sage_eval.probes.serving.record import Cell
from sage_eval.probes.shape import describe
from sage_eval.probes.subject import ENGINE, baseline_of

LENGTHS = (128, 1024, 4096, 8192, 32768, 131072)
BATCHES = (1, 8, 32, 128)
MIXED = 64
PROFILED_STEPS = 17
"""Decode steps of a profile: enough to average over, and a trace of some megabytes."""
LONG = 32768
"""Longer prompts come last: what is cheap is measured even where the time runs out."""
SLACK_TOKENS = 2048
"""Of the KV cache, for pages that are not full and SGLang's own reserve."""


class Plan(BaseModel):
    """A benchmark as asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    model: Path
    arms: tuple[BenchArm, ...]
    baseline: str
    lengths: tuple[int, ...] = LENGTHS
    batches: tuple[int, ...] = BATCHES
    packed_tokens: int = Field(16384, ge=0)
    decode_context: int = Field(256, ge=1)
    decode_steps: int = Field(65, ge=2)
    mixed: int = Field(MIXED, ge=0)
    positions: int | None = None
    """The model's longest sequence, where its configuration says it."""
    chunk: int | None = None
    load_format: str = "auto"
    model_args: dict[str, Any] = {}
    seconds: float = Field(10.0, ge=0)
    longest: float = Field(30.0, gt=0)
    profile: float = Field(15.0, ge=0)
    """Seconds: a longer run is not profiled; 0 for no profile at all."""
    total: float | None = None
    resident: int | None = Field(None, ge=1)
    seed: int = 0

    def cells(self) -> list[Cell]:
        """Short prompts, packed ones, decode, a mix, then the long prompts."""
        short = [n for n in self.lengths if n <= LONG]
        packed = [n for n in short if self.packed_tokens // n >= 2]
        return [
            *(Cell(kind="prefill", size=n) for n in short),
            *(Cell(kind="packed", size=n) for n in packed),
            *(Cell(kind="decode", size=n) for n in self.batches),
            *(Cell(kind="mixed", size=n) for n in [self.mixed] if n),
            *(Cell(kind="prefill", size=n) for n in self.lengths if n > LONG),
        ]

    def sizes(self, cell: Cell) -> list[tuple[int, int]]:
        """(prompt, new) tokens of each request that is handed over at once."""
        match cell.kind:
            case "prefill":
                return [(cell.size, 1)]
            case "packed":
                return [(cell.size, 1)] * (self.packed_tokens // cell.size)
            case "decode":
                return [(self.decode_context, self.decode_steps)] * cell.size
            case "mixed":
                return mix.lengths(cell.size, self.positions)

    def work(self, cell: Cell) -> dict[str, int]:
        """`requests`, `tokens` and `new_tokens` of a `record.Block`."""
        sizes = self.sizes(cell)
        match cell.kind:
            case "decode":
                return {"requests": len(sizes), "tokens": self.decode_steps - 1}
            case "mixed":
                prompts, answers = (sum(each) for each in zip(*sizes, strict=True))
                return {"requests": len(sizes), "tokens": prompts, "new_tokens": answers}
        return {"requests": len(sizes), "tokens": cell.size}

    def command(self, cell: Cell) -> dict[str, Any]:
        """What a worker is asked to run, its seed aside."""
        sizes = self.sizes(cell)
        if cell.kind == "mixed":
            return {"mix": sizes}
        length, new_tokens = sizes[0]
        return {"requests": len(sizes), "length": length, "new_tokens": new_tokens}

    def profiled_command(self, cell: Cell) -> dict[str, Any]:
        """The same for a profile."""
        command = self.command(cell)
        return command | {"new_tokens": min(command["new_tokens"], PROFILED_STEPS)}

    def cache_tokens(self) -> int:
        """Tokens that the largest cell keeps in the KV cache, rounded up."""
        most = max((sum(map(sum, self.sizes(cell))) for cell in self.cells()), default=0)
        return -(-(most + SLACK_TOKENS) // 1024) * 1024

    def engine_arguments(self) -> dict[str, Any]:
        """Of `ArmOptions.from_arguments`, the same for every arm; `model_args` win."""
        sizes = [self.sizes(cell) for cell in self.cells()]
        largest = max((*self.batches, self.mixed))
        graphs = {"cuda_graph_max_bs_decode": largest} if largest else {"disable_decode_cuda_graph": True}
        if any("graph" in name and "prefill" not in name for name in self.model_args):
            graphs = {}
        return {
            **ENGINE,
            "max_length": max(sum(size) for requests in sizes for size in requests),
            "max_total_tokens": self.cache_tokens(),
            "max_running_requests": max(16, *map(len, sizes)),
            "chunked_prefill_size": self.chunk,
            "skip_tokenizer_init": True,
            "load_format": self.load_format,
            **graphs,
            **self.model_args,
        }

    def settings(self) -> dict[str, Any]:
        """What decides the numbers, sizes aside: with other ones the results of two calls do not compare."""
        sized = (
            "max_length", "max_total_tokens", "max_running_requests",
            "cuda_graph_max_bs_decode", "disable_decode_cuda_graph",
        )  # fmt: skip
        engine = {name: value for name, value in self.engine_arguments().items() if name not in sized}
        own = ("packed_tokens", "decode_context", "decode_steps", "seed", "model_args")
        return {"engine": engine, **{name: getattr(self, name) for name in own}}

    def groups(self, sizes: dict[str, Any]) -> list[list[BenchArm]]:
        """Arms whose engines are on the device at the same time; `sizes` are those of `shape.describe`."""
        return groups(self.arms, self.baseline, self.resident or fitting(sizes, self.cache_tokens()))


def make_plan(model: Path, arms: Sequence[BenchArm], baseline: str | None, **options: Any) -> Plan:
    """A checked plan. Raises `UsageError` for an unknown baseline or no sizes, `PrerequisiteError` for no model."""
    chosen = baseline_of(model, arms, baseline)
    sizes = (*options.get("lengths", ()), *options.get("batches", ()), *filter(None, [options.get("mixed")]))
    if not sizes or min(sizes) < 1:
        raise UsageError("there is nothing to measure: give --lengths, --batches or --mixed of 1 and more")
    for name in ("lengths", "batches"):
        options[name] = tuple(sorted(set(options.get(name, ()))))
    positions = describe(model).get("max_position_embeddings")
    return Plan(model=model, arms=tuple(arms), baseline=chosen, positions=positions, **options)
