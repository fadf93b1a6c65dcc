"""`sage-eval doctor`: versions, devices, and which attention backends can run here, with the reason where not."""

import json as encoder
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from textwrap import indent
from typing import Annotated, Any

import typer

from sage_eval.cli.flags import Json
from sage_eval.errors import PrerequisiteError


def doctor(
    bench: Annotated[
        Path | None,
        typer.Option(help="recommend settings from this file of `bench kernels`; measured first where it is missing"),
    ] = None,
    json: Json = False,
) -> None:
    """Say what this machine has, which backends can run on it and, with --bench, which settings to choose."""
    from sage_eval.store import provenance

    devices = provenance.devices()
    found: dict[str, Any] = {
        "schema_version": 1,
        "versions": provenance.versions(),
        "host": provenance.host(),
        "devices": devices,
        "backends": [
            {"name": name, "runs": reason is None, "why": reason} for name, reason in _backends(devices).items()
        ],
        "advice": _advice(bench) if bench else None,
    }
    typer.echo(encoder.dumps(found, indent=1) if json else text(found))
    if not any(backend["runs"] for backend in found["backends"]):
        raise PrerequisiteError("no attention backend can run here: install sglang and torch for this machine")


def _advice(bench: Path) -> dict[str, Any]:
    """What `bench` recommends, of which device, and whether it timed today's kernels.

    `PrerequisiteError` where it is missing and there is no GPU to make it.
    """
    from sage_eval.measure.kernels.cases import CASES, EXACT, OURS
    from sage_eval.measure.kernels.instrument import Kernels, KernelsPlan, Timing
    from sage_eval.measure.kernels.recommend import recommend, text
    from sage_eval.store import record as records
    from sage_eval.store.source import source_hash

    if not bench.exists():
        plain = ";".join(case.name for case in CASES if not case.prefix)
        Kernels().measure(KernelsPlan(out=bench, columns=",".join([*OURS, *EXACT]), cases=plain))
    record = records.read(Timing, bench, Kernels.kind)
    found = recommend(record.rows)
    return {
        "devices": sorted(device["name"] for device in record.provenance.devices),
        "current": record.provenance.code == source_hash(),
        "settings": [one._asdict() for one in found],
        "text": text(found),
    }


def text(found: dict[str, Any]) -> str:
    """The same for people."""
    host, devices = found["host"], found["devices"]
    lines = [
        f"host: {host['system']}, {host['cpu']}, {host['cores']} cores, {host['memory_gib']} GiB",
        *(f"GPU: {d['name']}, {d['memory_gib']} GiB, compute capability {d['compute_capability']}" for d in devices),
        *([] if devices else ["GPU: none found; SGLang runs on the CPU through sage-eval's platform plugin"]),
        "versions: " + ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
        "attention backends:",
    ]
    for backend in found["backends"]:
        lines.append(f"  {backend['name']:<14} {'yes' if backend['runs'] else 'no: ' + backend['why']}")
    if advice := found["advice"]:
        # The file may be another machine's, or older than the kernels.
        stale = "" if advice["current"] else ", with other kernels than these: measure again"
        lines.append(f"recommended for {', '.join(advice['devices'])}, as measured there{stale}:")
        lines.append(indent(advice["text"], "  "))
    return "\n".join(lines)


def _backends(devices: list[dict[str, Any]]) -> dict[str, str | None]:
    """Backend -> None where it can run, else what is missing."""
    missing = next((f"install {name}" for name in ("sglang", "torch") if find_spec(name) is None), None)
    plugins = [point.name for point in entry_points(group="sglang.srt.plugins")]
    plugin = None if "sage_attn" in plugins else "sage-eval is not installed here, so SGLang does not find its plugin"
    no_gpu = None if devices else "needs an NVIDIA GPU"
    capability = float(devices[0]["compute_capability"]) if devices else 0.0
    hopper = None if 9.0 <= capability < 10.0 else "needs a Hopper GPU (compute capability 9.x)"
    package = None if find_spec("sageattention") else "pip install sageattention==1.0.6"
    flashinfer = None if find_spec("flashinfer") else "install flashinfer-python"
    return {
        "sage_attn": missing or plugin,
        "sage_attn with kernel=package": missing or plugin or no_gpu or package,
        "torch_native": missing,
        "triton": missing or no_gpu,
        "fa3": missing or no_gpu or hopper,
        "flashinfer": missing or no_gpu or flashinfer,
    }
