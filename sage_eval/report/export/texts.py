"""A run as text that people paste: into a pull request, or into a model's card."""

from sage_eval.compare.pairs import score
from sage_eval.measure import BENCH
from sage_eval.render.sections import body, brief
from sage_eval.render.text import code
from sage_eval.report import measurements
from sage_eval.report.comparison import backends, facts, sections
from sage_eval.store.folder import Run

ACCURACY = ("verdict", "scores", "fidelity")
_NO_SPEED = (
    "Not measured in this folder. `sage-eval bench serving MODEL --arms {baseline},{candidate} --output RUN` adds time "
    "to first token, decode and memory."
)


def pull_request(run: Run) -> dict[str, bytes]:
    """The headings of SGLang's pull-request template, with accuracy, speed and how to repeat them filled in."""
    shown = {part.name: part for part in brief(sections(run, {}))}
    accuracy = [body(shown[name].parts) for name in ACCURACY if name in shown]
    speed = [
        f"### {part.title}\n\n{body(part.parts)}"
        for part in brief(measurements.found(run.folder))
        if part.name in BENCH
    ]
    *tested, against = backends(run.comparison)
    speed = speed or [_NO_SPEED.format(baseline=against, candidate=tested[0])]
    text = [
        "## Motivation\n\n<!-- Why? -->",
        "## Modifications\n\n<!-- What was changed? -->",
        f"## Accuracy Tests\n\n{' and '.join(tested)} against {against}: {run.manifest.model['name']}, the same "
        "prompts in both, paired item by item. ± is one standard error.",
        *accuracy,
        "## Speed Tests and Profiling",
        *speed,
        "### How to repeat",
        _repeat(run),
        "## Checklist\n\n- [x] Accuracy and speed results, with the command that repeats them",
    ]
    return {"pull-request.md": ("\n\n".join(text) + "\n").encode()}


def model_card(run: Run) -> dict[str, bytes]:
    """A model card whose `model-index` has the baseline's and each candidate's scores."""
    from huggingface_hub import EvalResult, ModelCardData

    found, configs = run.comparison, next(iter(run.arms.values())).results.get("configs", {})
    results = []
    for pair in (pair for pair in found.pairs if pair.role == "candidate"):
        for row in pair.tasks:
            for side in ("baseline", "candidate") if pair is found.pairs[0] else ("candidate",):
                backend = found.arms[getattr(pair, side)].backend
                results.append(
                    EvalResult(
                        task_type="text-generation",
                        dataset_type=str(configs.get(row.task, {}).get("dataset_path") or row.task),
                        dataset_name=row.task,
                        dataset_config=row.task,
                        metric_type=row.metric,
                        metric_name=f"{row.metric} ({backend})",
                        metric_value=score(row, side),
                        metric_args={"attention_backend": backend, "arm": getattr(pair, side), "items": row.n},
                    )
                )
    name = run.manifest.model["name"]
    card = ModelCardData(model_name=name, library_name="sglang", tags=["sage_attn"], eval_results=results)
    shown = {part.name: part for part in brief(sections(run, {}))}
    text = ["---", card.to_yaml(), "---", "", "## Evaluation", "", body(shown["scores"].parts), "", _repeat(run)]
    return {"README.md": ("\n".join(text) + "\n").encode()}


def _repeat(run: Run) -> str:
    listed = "\n".join(f"- {name}: {text}" for name, text in facts(run.manifest, run.comparison))
    return f"{code(run.manifest.command, 'sh')}\n\n{listed}"
