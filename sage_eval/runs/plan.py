"""`compare --dry-run`: what would be asked, in requests and tokens, and roughly how long it would take.

Only the tasks and the tokenizer are loaded. The time is an estimate: from an earlier run of the same model where there
is one beside the output folder, else from the model's size and the device, and then good to a factor of three at best.
"""

import contextlib
import functools
import io
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sage_eval.config import RunConfig
from sage_eval.runs import manifest as manifests
from sage_eval.runs.folder import ARM, MANIFEST
from sage_eval.runs.tasks import load_tasks

# Prompt tokens a second by device: an upper limit, and useful FLOP/s from which 2 · parameters is a token's share.
_CPU = (1_000.0, 20e9)  # per core
_GPU = (50_000.0, 200e12)
_HOPPER = (50_000.0, 500e12)
_DECODE_SHARE = 0.1  # one generated token takes as long as ten prompt tokens
_START_SECONDS = {"cpu": 35.0, "gpu": 60.0}


class TaskPlan(BaseModel):
    """One leaf task: items, lm-eval's requests, the engine's (those that differ in one last token are one), tokens."""

    task: str
    items: int
    requests: int
    engine_requests: int
    prompt_tokens: int
    longest: int
    new_tokens: int


class Plan(BaseModel):
    """A comparison before it is run. `new_tokens` are upper limits; seconds are for all arms together."""

    schema_version: int = 1
    tasks: list[TaskPlan]
    arms: int
    tokens_per_second: float
    rate_from: str
    seconds: float

    def text(self) -> str:
        """A Markdown table and the estimate."""
        header = ("task", "items", "requests", "engine requests", "prompt tokens", "longest", "new tokens ≤")
        rows = [list(map(str, header)), ["---"] + ["---:"] * 6]
        total = TaskPlan(task="total", **{name: 0 for name in TaskPlan.model_fields if name != "task"})
        for task in self.tasks:
            values = {n: getattr(total, n) + getattr(task, n) for n in TaskPlan.model_fields if n != "task"}
            total = TaskPlan(task="total", **{**values, "longest": max(total.longest, task.longest)})
        for task in [*self.tasks, total]:
            name, *numbers = task.model_dump().values()
            rows.append([name, *(f"{number:,}" for number in numbers)])
        minutes = self.seconds / 60
        time = f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
        return "\n".join("| " + " | ".join(row) + " |" for row in rows) + (
            f"\n\n{self.arms} arms, each of them asked all of this: about {time} in all, at "
            f"{self.tokens_per_second:,.0f} prompt tokens/s ({self.rate_from})"
        )


def plan(config: RunConfig) -> Plan:
    """Count what `config` would ask. Raises like a run would for a missing model, unknown task or damaged data."""
    from transformers import AutoTokenizer

    from sage_eval.runs.arm import use_data

    use_data(config.data_dir)
    model = manifests.find_model(config.model)
    # One progress bar for each of MMLU's 57 subjects, and hints for authors of tasks, would bury the result.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with contextlib.redirect_stderr(io.StringIO()):
        _, tasks = load_tasks(config.tasks, str(model), config.task_args)
        tokenizer = AutoTokenizer.from_pretrained(model)
        counted = [_count(name, task, tokenizer, config) for name, task in tasks.items()]
    devices = manifests.devices()
    rate, source = measured_rate(config, model, devices) or _assumed(model, devices)
    work = sum(task.prompt_tokens + task.new_tokens / _DECODE_SHARE for task in counted)
    arms = 2 + len(config.arms)
    start = _START_SECONDS["gpu" if devices else "cpu"]
    return Plan(
        tasks=counted, arms=arms, tokens_per_second=rate, rate_from=source, seconds=arms * (start + work / rate)
    )


def _count(name: str, task: Any, tokenizer: Any, config: RunConfig) -> TaskPlan:
    from lm_eval.evaluator_utils import get_sample_size

    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=config.seed)
    task.build_all_requests(limit=get_sample_size(task, config.limit), rank=0, world_size=1)
    is_short = functools.cache(lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]) == 1)
    prompts: set[str] = set()
    new_tokens = 0
    for instance in task.instances:
        first, *rest = instance.args
        if instance.request_type == "loglikelihood":
            # Answers that are one token long are read from the distribution after their common context.
            short = is_short(rest[0])
            prompts.add(first if short else first + rest[0])
        else:
            prompts.add(first)
        if instance.request_type == "generate_until":
            new_tokens += int(rest[0].get("max_gen_toks", 256))
    lengths = [len(ids) for ids in _encode(tokenizer, prompts)]
    return TaskPlan(
        task=name,
        items=len({instance.doc_id for instance in task.instances}),
        requests=len(task.instances),
        engine_requests=len(prompts),
        prompt_tokens=sum(lengths),
        longest=max(lengths, default=0),
        new_tokens=new_tokens,
    )


def _encode(tokenizer: Any, prompts: Iterable[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(list(prompts), verbose=False)["input_ids"]
    return ids


def measured_rate(config: RunConfig, model: Path, devices: list[dict[str, Any]]) -> tuple[float, str] | None:
    """Prompt tokens a second, and whence: of the latest finished arm of this model on such a machine as this one.

    Looks at the runs beside `config.output`; `devices` are this machine's GPUs. None where there is no such arm.
    """
    parent = config.output.parent if config.output else Path("results")
    digest = manifests.describe_model(config.model, model)["sha256"]
    for path in sorted(parent.glob(f"*/arms/*/{ARM}"), key=lambda found: -found.stat().st_mtime):
        try:
            record = json.loads(path.read_text())
            coverage = record["engine"]["coverage"]
            if record["spec"]["model_hash"] == digest and _is_here(path.parents[2] / MANIFEST, devices):
                work = coverage["prompt_tokens"] + coverage["generated_tokens"] / _DECODE_SHARE
                return work / record["seconds"]["evaluate"], f"measured in {path.parents[2]}"
        except (OSError, ValueError, LookupError, TypeError, ZeroDivisionError):
            continue  # another version's run, or half of one: an estimate does without it
    return None


def _is_here(manifest: Path, devices: list[dict[str, Any]]) -> bool:
    """Whether a run was made on such a GPU as the first of `devices`, or, without any, on as many CPU cores."""
    found = json.loads(manifest.read_text())
    if devices and found["devices"]:
        return bool(found["devices"][0]["name"] == devices[0]["name"])
    return not devices and not found["devices"] and found["host"]["cores"] == manifests.host()["cores"]


def _assumed(model: Path, devices: list[dict[str, Any]]) -> tuple[float, str]:
    parameters = sum(path.stat().st_size for path in model.glob("*.safetensors")) / 2
    if devices:
        hopper = devices[0]["compute_capability"].startswith("9")
        limit, flops = _HOPPER if hopper else _GPU
        name = devices[0]["name"]
    else:
        cores = manifests.host()["cores"]
        limit, flops, name = _CPU[0], _CPU[1] * cores, f"{cores} CPU cores"
    rate = min(limit, flops / (2 * parameters)) if parameters else limit
    return rate, f"assumed for {parameters / 1e6:,.0f} M parameters on {name}; good to a factor of three"
