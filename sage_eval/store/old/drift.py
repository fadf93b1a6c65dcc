"""`drift.json` of schema 1."""

from typing import Any

from sage_eval.store.old import Value, provenance

_CELLS = {"forced": "same inputs", "free": "own inputs"}
_OTHER, _REPEAT = "torch SDPA", "repeat"


def upgrade(value: Value) -> Value:
    """Each series was by itself; a row has an arm's against the baseline and those against exact attention."""
    first, *others = value["arms"]
    rows: dict[tuple[str, str], dict[str, Any]] = {}

    def row(cell: str, arm: str) -> dict[str, Any]:
        return rows.setdefault((cell, arm), {"arm": arm, "cell": cell, "block": 0})

    for series in value["series"]:
        arm = first["name"] if series["arm"] == _REPEAT else series["arm"]
        name = "layers" if series["against"] == "baseline" else "exact"
        row(_CELLS[series["way"]], arm)[name] = series["layers"]
    row("same inputs", first["name"])["keys"] = value["keys"]
    missing = [(arm["name"], arm.get("forced_error")) for arm in others] + [(_OTHER, value.get("other_error"))]
    for arm, error in missing:
        if error:
            row("same inputs", arm)["error"] = error
    for arm in value["arms"]:
        if (mine := rows.get(("own inputs", arm["name"]))) is not None:
            mine |= {"shared": arm.get("shared", False), "backend": arm.get("backend")}
    if ("own inputs", _OTHER) in rows:
        rows["own inputs", _OTHER]["shared"] = True
    return {
        "schema_version": 2,
        "kind": "drift",
        "provenance": provenance(value),
        "settings": {name: value[name] for name in ("prompts", "tokens", "seed", "text")},
        "baseline": first["name"],
        "arms": {
            arm["name"]: {"role": arm["role"], "arguments": arm["arguments"], "coverage": arm.get("coverage", {})}
            | {name: arm.get(name) for name in ("start_seconds", "error")}
            for arm in value["arms"]
        },
        "rows": list(rows.values()),
    }
