"""`compare --arms stress=N` with SGLang's real engine, on a checkpoint that `sage-eval stress` made beforehand."""

import pytest

from sage_eval.calibrate.stress import stress
from sage_eval.compare.run import compare
from sage_eval.config import RunConfig
from sage_eval.store.provenance import describe_model

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_a_dose_is_served_and_seen(reference_model, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text((reference_model.parent / "tasks/prose/text.txt").read_text())
    output = tmp_path / "run"
    stress(str(reference_model), (64,), output, text, tokens=512)
    config = RunConfig(
        model=str(reference_model),
        tasks=("tests/compare/tasks/tiny_perplexity.yaml",),
        calibrate=False,
        arms=("stress=64",),
        output=output,
        model_args={"max_length": 1024, "dtype": "bfloat16"},
    )
    run = compare(config)
    spec = run.arms["stress-64"].record.spec
    assert spec.model_hash == describe_model("x", output / "stress" / "64")["sha256"]
    # The function is the same; what INT8 does to it is not.
    for task in run.comparison.verdict.tasks:
        [dose] = task.doses
        assert abs(dose.difference.value) > 5 * abs(task.interval.value), task.task
