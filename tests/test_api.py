"""The Python interface: a run as data frames."""

import subprocess
import sys

import pytest

import sage_eval
from tests.cli.values import ROOT

CALIBRATED = ROOT / "tests" / "store" / "stored" / "schema_1_calibrated"


@pytest.fixture(scope="module")
def run():
    return sage_eval.load(CALIBRATED)


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, sage_eval; sage_eval.compare; sys.exit(bool({'pandas', 'numpy', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT).returncode == 0


def test_each_arm_is_a_row(run):
    assert list(run.arms["arm"]) == ["baseline", "candidate", "repeat", "exact", "control"]
    assert list(run.arms["role"]) == ["baseline", "candidate", "floor", "floor", "control"]


def test_each_answer_is_a_row_with_its_metrics_as_columns(run):
    assert len(run.samples) == sum(run.arms["items"])
    text = run.samples.query("arm == 'baseline' and task == 'tiny_perplexity'")
    assert (text["word_perplexity"] < 0).all()
    assert (text["word_perplexity_weight"] > 0).all()


def test_the_frames_give_the_scores_of_the_comparison(run):
    table = run.samples.query("task == 'tiny_choice'").pivot(index="doc_id", columns="arm", values="acc")
    [row] = run.scores.query("arm == 'candidate' and task == 'tiny_choice'").to_dict("records")
    assert (table["candidate"] - table["baseline"]).mean() == pytest.approx(row["difference"])
    assert ((table["candidate"] < table["baseline"]).sum(), row["gained"]) == (row["lost"], 0)


def test_each_verdict_has_its_interval_margin_and_floor(run):
    [row] = run.verdicts.query("task == 'tiny_perplexity'").to_dict("records")
    assert row["verdict"] == "worse"
    assert row["low"] > row["margin"] > abs(row["floor"])


def test_compare_is_a_function_and_a_package():
    import sage_eval.compare.run

    with pytest.raises(sage_eval.errors.UsageError, match="candidate"):
        sage_eval.compare("nowhere", candidate="")
    assert sage_eval.compare.run.compare


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'loads'"):
        _ = sage_eval.loads
