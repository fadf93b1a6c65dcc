"""`determinism.json` of schema 1."""

from typing import Any

from sage_eval.store.old import Value, provenance


def upgrade(value: Value) -> Value:
    """Early files did not say by whom they were made, nor what their arms were told."""
    first = next(arm["arm"] for arm in value["arms"])
    ways = [way for arm in value["arms"] for way in arm["ways"]]
    made: dict[str, Any] = value.get("made") or {
        "created": "", "command": "", "model": {}, "versions": {}, "host": {}, "devices": [],
    }  # fmt: skip
    made = made | {"model": {"name": value["model"]} | made["model"]}
    names = ("tokens", "chunk", "generated")
    return {
        "schema_version": 2,
        "kind": "determinism",
        "provenance": provenance(made),
        "settings": {"prompts": ways[0]["prompts"], **{name: value[name] for name in names}},
        "baseline": first,
        "arms": {
            arm["arm"]: {
                "role": "baseline" if arm["arm"] == first else "candidate",
                "arguments": {},
                "error": arm.get("failure"),
            }
            for arm in value["arms"]
        },
        "rows": [
            {"arm": arm["arm"], "cell": "ways", "block": 0} | {name: arm[name] for name in ("backend", "ways", "error")}
            for arm in value["arms"]
            if not arm.get("failure")
        ],
    }
