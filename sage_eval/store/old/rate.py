"""`rate.json` of schema 1, which had blocks of arms, and the moments at which requests were to be sent."""

from typing import Any

from sage_eval.store.old import Value, provenance


def upgrade(value: Value) -> Value:
    """The moments at which requests were sent are those of the plan and, spread evenly, the generator's lateness."""
    return {
        "schema_version": 2,
        "kind": "rate",
        "provenance": provenance(value),
        "settings": value["settings"],
        "baseline": value["baseline"],
        "arms": value["arms"],
        "rows": [
            _row(block, place, arm, result)
            for place, block in enumerate(value["blocks"])
            for arm, result in block["results"].items()
        ],
    }


def _row(block: Value, place: int, arm: str, result: Value) -> Value:
    rate, planned = block["rate"], block["arrivals"]
    ends = [start + latency for start, latency in zip(planned, result["latency"], strict=True)]
    late = result["seconds"] - max(block["sending"], *ends)
    share = max(0.0, late) / (len(planned) - 1)  # each pause is a little too long
    states: list[Any] = [state for state in (block["gpu_before"], block["gpu_after"]) if state]
    label = "all at once" if rate is None else f"{rate:g}/s"
    return {
        "arm": arm,
        "cell": f"{label}, repeat {block['repeat'] + 1}",
        "block": place,
        **{name: block[name] for name in ("rate", "repeat", "seed")},
        "sent": [moment + share * number for number, moment in enumerate(planned)],
        "late": late,
        "gpu": states,
        **result,
    }
