"""`scoring.json` of schema 1, which kept models, engines and clients apart, and whether answers agreed without them."""

from typing import Any

from sage_eval.store.old import Value, provenance

_AGREEMENT = {"reference", "score_difference", "turned", "mean_difference"}


def upgrade(value: Value) -> Value:
    """Its rates say their prompts, its settings those of each part."""
    unknown = {name: value[name] for name in value.keys() - _KNOWN}
    own = value["settings"]
    settings = {name: text for part in own.values() if isinstance(part, dict) for name, text in part.items()}
    tasks = settings.get("tasks", {})
    settings |= next(({"prompts": rate["prompts"]} for rate in value["rate"].values()), {})
    evaluation, rate = value["evaluation"].items(), value["rate"].items()
    arms = {name: _model(name, column) for name, column in evaluation} | {name: _engine(one) for name, one in rate}
    rows = [
        {"arm": name, "cell": f"evaluation/{task}={tasks.get(task, found['items'])}", "block": 0, **_task(found)}
        for name, column in evaluation
        for task, found in column["tasks"].items()
    ]
    rows += [
        {"arm": name, "cell": f"rate/{index}", "block": 0, "round": found}
        for name, one in rate
        for index, found in enumerate(one["rounds"])
    ]
    rows += [
        {"arm": "client", "cell": f"client/{one['requests']}", "block": 0, "client": one} for one in value["client"]
    ]
    return {
        "schema_version": 2,
        "kind": "scoring",
        "provenance": provenance(value),
        "settings": {"model_args": own.get("model_args", {}), "seed": value["seed"]}
        | {name: settings[name] for name in ("task_args", "prompts", "prompt_tokens") if name in settings},
        "baseline": "hf",
        "arms": arms,
        "rows": rows,
    } | unknown


_KNOWN = {
    "schema_version", "created", "command", "model", "seed", "settings", "versions", "host", "devices", "code",
    "evaluation", "rate", "client",
}  # fmt: skip


def _model(name: str, column: Value) -> Value:
    return {
        "role": "baseline" if name == "hf" else "candidate",
        "arguments": column["arguments"],
        "engine": {"absent": column["absent"]} if column["absent"] else {},
        "start_seconds": column["start_seconds"],
        "error": column["error"],
    }


def _engine(rate: Value) -> Value:
    return {
        "role": "candidate",
        "arguments": rate["arguments"],
        "engine": rate["engine"],
        "start_seconds": rate["start_seconds"],
        "error": rate["error"],
    }


def _task(found: Value) -> Value:
    """An error stood for a task that was not done, or for answers that were not the reference's."""
    if found["seconds"] is None:
        return {"error": found["error"]}
    task: dict[str, Any] = {name: found[name] for name in found.keys() - {"agreement", "error"}}
    if agreement := found["agreement"]:
        task["agreement"] = {name: agreement.get(name) for name in _AGREEMENT} | {"reason": found["error"]}
    return {"task": task}
