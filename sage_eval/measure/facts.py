"""What every record of speed says first and last: machine, settings, failed arms; clocks, and which kernels ran."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sage_eval.store.record import Record


def head(record: Record[Any]) -> Iterator[str]:
    """Paragraphs: device, versions and baseline; settings; arms that failed."""
    source, engine = record.provenance, record.settings["engine"]
    hidden = any("allocated" in arm.memory for arm in record.arms.values())
    device = "a GPU that NVML does not show" if hidden else f"{source.host.get('cpu')}, no GPU"
    device = source.devices[0]["name"] if source.devices else device
    own = {name: value for name, value in record.settings.items() if name not in ("engine", "model_args")}
    shown = engine | record.settings.get("model_args", {}) | own
    settings = ", ".join(f"{name}={value}" for name, value in shown.items() if value is not None)
    chunks = {arm.engine.get("chunked_prefill_size") for arm in record.arms.values() if arm.engine}
    versions = ", ".join(f"{name} {source.versions.get(name)}" for name in ("sglang", "torch"))
    yield f"{device}; {versions}. Baseline: `{record.baseline}`."
    yield f"Settings of every arm: {settings}. Prefill in chunks of {', '.join(map(str, chunks)) or '?'} tokens."
    yield from (f"**{name} failed:** {arm.error}" for name, arm in record.arms.items() if arm.error)


def clocks(states: Iterable[Mapping[str, int]]) -> str:
    """The range of each value in `states`, which are those of `arms.gpu.state`."""
    known = list(states)
    spans = [
        f"{name} {min(values)}–{max(values)}"
        for name in ("sm_mhz", "watts", "celsius")
        if (values := [state[name] for state in known if name in state])
    ]
    if not known:
        return "No clocks, power or temperature: NVML knows of no GPU here."
    return f"GPU before and after the cells: {', '.join(spans)}."


def coverage(record: Record[Any]) -> Iterator[str]:
    """A paragraph for each arm that counts the tokens of its kernels."""
    for name, arm in record.arms.items():
        if total := sum(arm.coverage.values()):
            kernels = ", ".join(f"{kernel} {tokens / total:.1%}" for kernel, tokens in sorted(arm.coverage.items()))
            yield f"Tokens of `{name}` by phase and kernel, warm-up included: {kernels}."
