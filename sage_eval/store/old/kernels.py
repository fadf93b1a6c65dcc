"""`bench.jsonl`, which had one JSON value per line: the GPU's rates for each command, and kernels on cases."""

from typing import Any

from sage_eval.store.old import Value

_OURS = ("int8-fp16", "int8-fp8")


def upgrade(value: Value) -> Value:
    """Such files say of their making only the GPU, the version of torch and the source of the kernels."""
    heads = [line for line in value["lines"] if "limits" in line]
    cells = [line for line in value["lines"] if "kernel" in line]
    limits: list[Value] = [
        {"arm": "card", "cell": name, "block": block, "rate": rate}
        for block, head in enumerate(heads)
        for name, rate in head["limits"].items()
    ]
    provenance: dict[str, Any] = {"created": "", "commands": [], "model": {"name": "kernels"}, "host": {}}
    return {
        "schema_version": 2,
        "kind": "kernels",
        "provenance": provenance
        | {
            "versions": {"torch": heads[-1]["torch"]},
            "devices": [{"name": name} for name in dict.fromkeys(head["device"] for head in heads)],
            "code": heads[-1]["source"],
        },
        "settings": {},
        "arms": {
            name: {"role": "candidate" if name in _OURS else "floor", "arguments": {}}
            for name in dict.fromkeys(line["kernel"] for line in cells)
        },
        "rows": limits
        + [
            {
                "arm": line["kernel"],
                "cell": line["case"],
                "block": 0,
                "ms": line.get("ms"),
                "absent": line.get("absent"),
            }
            for line in cells
        ],
    }
