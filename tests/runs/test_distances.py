"""From an arm's process to `fidelity.json`, with a language model whose whole distributions are known."""

import shutil

import numpy as np
import pytest

from sage_eval.errors import DataError
from sage_eval.report import fidelity as report
from sage_eval.report.markdown import render
from sage_eval.runs import distances, load
from sage_eval.runs.compare import compare, summarise
from tests.runs.lms import TextLM

K = 12


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A baseline, a candidate and a repeated baseline. Read only."""
    output = tmp_path_factory.mktemp("runs") / "texts"
    config = tiny(
        lm="tests.runs.lms:TextLM",
        tasks=("tests/runs/tasks/tiny_perplexity.yaml",),
        top_logprobs=K,
        arms=("repeat",),
        output=output,
    )
    return compare(config, argv=["compare", "MODEL"])


@pytest.fixture
def copy(run, tmp_path):
    shutil.copytree(run.folder, tmp_path / "run")
    return tmp_path / "run"


def of(run, arm):
    [found] = [task for task in run.fidelity.tasks if task.arm == arm]
    return found


def test_the_kld_is_a_lower_bound_of_the_exact_one(run):
    found = of(run, "candidate").statistics
    models = [TextLM(attention_backend=name) for name in ("plain", "sage_attn")]
    exact = []
    for prompt in run.prompts.values():
        p, q = (model.distributions(prompt["context"], range(20)) for model in models)
        exact += (np.exp(p) * (p - q)).sum(axis=1).tolist()
    assert len(exact) == found.positions
    assert 0.2 * np.mean(exact) < found.kld.value < np.mean(exact)
    assert not found.exact
    assert found.note.startswith("lower bound")


def test_documents_are_the_unit_of_the_error(run):
    found = of(run, "candidate")
    assert (found.task, found.role, found.k) == ("tiny_perplexity", "candidate", K)
    assert found.statistics.kld.units == found.statistics.documents == 40
    assert found.statistics.kld.se > 0


def test_the_log_perplexity_is_that_of_the_samples(run):
    """Two ways to the same number: token log-probabilities here, lm-eval's sums there."""
    base, cand = (sum(sample.logprobs[0] for sample in run.arms[name].samples) for name in ("baseline", "candidate"))
    assert of(run, "candidate").statistics.log_perplexity.value == pytest.approx((base - cand) / (40 * 20), rel=1e-4)


def test_equal_arms_are_exactly_equal(run):
    same = of(run, "repeat")
    assert same.role == "floor"
    assert same.statistics.kld.value == same.statistics.delta_p_rms.value == 0
    assert same.statistics.same_top.value == same.statistics.perplexity_ratio.value == 1
    assert same.kld_histogram.below == same.statistics.positions
    assert all(place.difference.value == 0 for place in same.by_position)


def test_every_position_is_in_one_bin(run):
    found = of(run, "candidate")
    bars = found.kld_histogram
    assert sum(bars.counts) + bars.below + bars.above == found.statistics.positions == 800
    assert [(place.low, place.high) for place in found.by_position] == [(1, 2), (2, 4), (4, 8)]
    assert sum(place.n for place in found.by_position) == 800
    mean = sum(place.n * place.difference.value for place in found.by_position) / 800
    assert mean == pytest.approx(found.statistics.log_perplexity.value, abs=1e-9)


def test_values_beyond_the_edges_are_counted():
    bars = distances.histogram(np.array([0.0, 1e-12, 1e-9, 1.5e-9, 6.0, 10.0, 11.0]))
    assert (bars.below, bars.above) == (2, 1)
    assert (bars.counts[0], bars.counts[-1], sum(bars.counts)) == (2, 2, 4)


def test_a_published_folder_keeps_what_was_measured(copy):
    before = load(copy).fidelity
    for path in copy.glob("arms/*/topk.npz"):
        path.unlink()
    assert summarise(copy, {}).fidelity == before


def test_an_arm_whose_lists_are_gone_keeps_its_row_and_the_others_are_measured_again(copy):
    before = load(copy).fidelity
    (copy / "arms/repeat/topk.npz").unlink()
    kept = before.model_copy(update={"tasks": [of(load(copy), "repeat")]})
    (copy / "fidelity.json").write_text(kept.model_dump_json())
    assert summarise(copy, {}).fidelity == before


def test_lists_of_other_texts_are_refused(copy):
    with np.load(copy / "arms/candidate/topk.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays["prompt"][3] = "other"
    np.savez_compressed(copy / "arms/candidate/topk.npz", **arrays)
    with pytest.raises(DataError, match=r"^tiny_perplexity, document \d+: arms baseline and candidate were given"):
        summarise(copy, {})


def test_a_run_without_lists_has_no_record(copy):
    for path in [*copy.glob("arms/*/topk.npz"), copy / "fidelity.json"]:
        path.unlink()
    assert summarise(copy, {}).fidelity is None
    assert not (copy / "fidelity.json").exists()
    assert "Token-level fidelity" not in render(load(copy))


def test_the_report_says_that_it_is_a_lower_bound(run):
    text = render(run, details=False)
    table = report.table(run.fidelity)
    assert [row[:3] for row in table.rows] == [
        ("tiny_perplexity", "candidate", "candidate"),
        ("tiny_perplexity", "repeat", "floor"),
    ]
    assert table.rows[1][3:7] == ("0", "0", "0", "100.00 ± 0.00 %")
    short = report.narrow(table)
    assert short.header[:3] == ("task", "arm", "mean KLD ± SE")
    assert [row[2] for row in short.rows] == [row[3] for row in table.rows]
    assert f"{of(run, 'candidate').statistics.kld.value:.2e} ± " in text
    assert "KLD is a lower bound: of the distributions only the top 12 tokens are known" in text
