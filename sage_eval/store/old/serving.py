"""`serving.json` and `memory.json` of schema 1, which kept all arms of a block together and profiles by themselves."""

from sage_eval.store.old import Value, provenance


def upgrade(value: Value) -> Value:
    """A row of each arm in each block, with its profile; of memory alone the one run was no timed one."""
    baseline, timed = value["baseline"], value["kind"] == "serving"
    rows = [row for number, block in enumerate(value["blocks"]) for row in _rows(number, block, timed=timed)]
    latest = {(row["arm"], row["cell"]): row for row in rows if not row.get("skipped")}
    for profile in value.get("profiles", ()):
        row = latest[profile["arm"], _cell(profile["cell"])]
        row["profile"] = (profile.get("times") or {}) | {"error": profile.get("error")}
    return {
        "schema_version": 2,
        "kind": value["kind"],
        "provenance": provenance(value),
        "settings": value["settings"],
        "baseline": baseline,
        "arms": {name: arm | {"role": _role(name, arm, baseline)} for name, arm in value["arms"].items()},
        "rows": rows,
    }


def _rows(number: int, block: Value, *, timed: bool) -> list[Value]:
    same = {"cell": _cell(block["cell"]), "block": number}
    same |= {name: block.get(name) for name in ("requests", "tokens", "new_tokens")}
    states = [state for state in (block.get("gpu_before"), block.get("gpu_after")) if state]
    measured = [{"arm": arm, **same, "gpu": states, **result} for arm, result in block["results"].items()]
    if not timed:
        measured = [row | {"seconds": [], "warm_up": row["seconds"][0]} for row in measured]
    return [*measured, *({"arm": arm, **same, "skipped": why} for arm, why in block.get("skipped", {}).items())]


def _cell(cell: Value) -> str:
    return f"{cell['kind']}/{cell['size']}"


def _role(name: str, arm: Value, baseline: str) -> str:
    if name == baseline:
        return "baseline"
    return "candidate" if "sage_attn" in arm["arguments"].values() else "floor"
