"""Two files of samples that lm-eval or sgl-eval wrote, compared without an engine."""

import json
from types import SimpleNamespace

import pytest
from lm_eval.loggers import EvaluationTracker

from sage_eval.cli import main
from sage_eval.compare.results import compare_results
from sage_eval.errors import DataError, UsageError


def rows(lost, n=400):
    """lm-eval's samples of a choice, of which the first `lost` are wrong."""
    for i in range(n):
        right = i >= lost
        scores = [(-0.5, True), (-2.0, False)] if right else [(-2.0, False), (-0.5, True)]
        yield {
            "doc_id": i, "doc": {"q": i}, "target": 0, "arguments": [("q", " a"), ("q", " b")],
            "resps": [[score] for score in scores], "filtered_resps": scores, "filter": "none", "metrics": ["acc"],
            "doc_hash": f"d{i}", "prompt_hash": f"p{i}", "target_hash": "t", "acc": float(right),
        }  # fmt: skip


@pytest.fixture
def lm_eval(tmp_path):
    """`lm_eval(name, lost)`: a folder as lm-eval itself writes it."""

    def write(name, lost):
        tracker = EvaluationTracker(output_path=str(tmp_path / name))
        tracker.general_config_tracker = SimpleNamespace(model_name_sanitized="model")
        tracker.date_id = "2026-11-29T20-00-00.000001"
        tracker.save_results_samples("tiny", list(rows(lost)))
        return tmp_path / name

    return write


@pytest.fixture
def sgl_eval(tmp_path):
    """`sgl_eval(name, lost)`: sgl-eval's streamed files of two repeats, in the order in which they were finished."""

    def write(name, lost):
        folder = tmp_path / name / "gpqa"
        folder.mkdir(parents=True)
        for repeat in range(2):
            lines = [
                {"generation": "…", "id": f"q{i}", "expected_answer": "B", "problem": f"problem {i}",
                 "finish_reason": "stop", "predicted_answer": "B", "symbolic_correct": i >= lost}
                for i in (range(198) if name == "base" else reversed(range(198)))
            ]  # fmt: skip
            (folder / f"output-rs{repeat}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return tmp_path / name

    return write


def test_samples_of_lm_eval_are_paired_and_judged(lm_eval):
    found = compare_results(lm_eval("base", 40), lm_eval("cand", 80), {})
    [row] = found.pairs[0].tasks
    assert (row.task, row.metric, row.n, row.flips.lost, row.flips.gained) == ("tiny", "acc", 400, 40, 0)
    assert row.right.value < 0
    assert found.verdict.verdict == "worse"


def test_repeats_of_a_problem_are_one_cluster(sgl_eval):
    [row] = compare_results(sgl_eval("base", 20), sgl_eval("cand", 25), {}).pairs[0].tasks
    assert (row.task, row.metric, row.n, row.difference.units) == ("gpqa", "symbolic_correct", 396, 198)
    assert (row.flips.lost, row.flips.gained) == (10, 0)
    assert row.difference.method == "Tango score, clustered"


def test_the_command_needs_no_model(lm_eval, capsys):
    paths = [str(lm_eval("base", 40)), str(lm_eval("cand", 40))]
    assert main(["compare", "--results", *paths, "--margin", "acc=0.05"]) == 0
    shown = capsys.readouterr().out
    assert "within the margin" in shown
    assert "not called equivalent" in shown
    assert main(["compare", "--results", paths[0], str(lm_eval("worse", 120)), "--fail-on", "worse", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"]["verdict"] == "worse"


def test_other_prompts_are_refused(lm_eval, tmp_path):
    base, cand = lm_eval("base", 1), lm_eval("cand", 1)
    [file] = cand.rglob("*.jsonl")
    file.write_text(file.read_text().replace('"p7"', '"other"'))
    with pytest.raises(DataError, match="different prompts"):
        compare_results(base, cand, {})


@pytest.mark.parametrize("text", ["{", "[]\n", '{"doc_id": 1}\n', '{"id": 1, "expected_answer": 2}\n'])
def test_a_file_of_another_kind_is_an_error_that_names_the_line(tmp_path, text):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(DataError, match=r"a\.jsonl, line 1, is neither"):
        compare_results(tmp_path / "a.jsonl", tmp_path / "a.jsonl", {})


def test_a_margin_of_nothing_is_refused(lm_eval):
    with pytest.raises(UsageError, match="--margin accc: neither a task nor a metric"):
        compare_results(lm_eval("base", 1), lm_eval("cand", 1), {"accc": 0.1})
