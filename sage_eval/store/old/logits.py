"""`logits.json` of schema 1."""

from sage_eval.store.old import Value, provenance


def upgrade(value: Value) -> Value:
    """What was served stood in the record; it is in each row now."""
    first, *_ = value["arms"]
    served = {name: value[name] for name in ("vocabulary", "resolution", "classes")}
    return {
        "schema_version": 2,
        "kind": value["kind"],
        "provenance": provenance(value),
        "settings": {**value["settings"], "seed": value["seed"], "texts": value["texts"]},
        "baseline": first["name"],
        "arms": {
            arm["name"]: {
                "role": "baseline" if arm is first else _role(arm),
                **{name: arm.get(name) for name in ("arguments", "start_seconds", "error")},
                **{name: arm.get(name) or {} for name in ("engine", "coverage")},
            }
            for arm in value["arms"]
        },
        "rows": [
            {"arm": arm["name"], "cell": "all", "block": 0, "served": served}
            | {name: arm[name] for name in ("backend", "seconds", "distances", "generated")}
            for arm in value["arms"]
            if not arm.get("error")
        ],
    }


def _role(arm: Value) -> str:
    """The baseline's measurements are of the arm's role; one that failed has none."""
    return str(arm["distances"]["fidelity"]["role"]) if arm.get("distances") else "candidate"
