"""From an arm's process to `fidelity.json`, with a language model whose whole distributions are known."""

import shutil

import numpy as np
import pytest
from pyarrow import parquet

from sage_eval.compare import run as runner
from sage_eval.compare.divergence import with_divergence
from sage_eval.compare.pairs import pairs
from sage_eval.compare.run import compare, judge
from sage_eval.compare.verdicts import decide, verdicts
from sage_eval.config import RunConfig
from sage_eval.errors import DataError
from sage_eval.render.text import minus
from sage_eval.report import fidelity as report
from sage_eval.statistics.paired import mean, paired_difference
from sage_eval.store import load
from sage_eval.store.fidelity import histogram, kl_by_position
from tests.compare.lms import TextLM
from tests.compare.values import in_this_process, rendered

K = 12


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A baseline, a candidate and a repeated baseline. Read only."""
    output = tmp_path_factory.mktemp("runs") / "texts"
    config = tiny(
        lm="tests.compare.lms:TextLM",
        tasks=("tests/compare/tasks/tiny_perplexity.yaml",),
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
    bars = histogram(np.array([0.0, 1e-12, 1e-9, 1.5e-9, 6.0, 10.0, 11.0]))
    assert (bars.below, bars.above) == (2, 1)
    assert (bars.counts[0], bars.counts[-1], sum(bars.counts)) == (2, 2, 4)


def test_a_published_folder_keeps_what_was_measured(copy):
    before = load(copy).fidelity
    for path in copy.glob("arms/*/topk.npz"):
        path.unlink()
    assert judge(load(copy), {}).fidelity == before


def test_an_arm_whose_lists_are_gone_keeps_its_row_and_the_others_are_measured_again(copy):
    before = load(copy).fidelity
    (copy / "arms/repeat/topk.npz").unlink()
    stale = of(load(copy), "candidate").model_copy(update={"k": 99})
    kept = before.model_copy(update={"tasks": [stale, of(load(copy), "repeat")]})
    (copy / "fidelity.json").write_text(kept.model_dump_json())
    assert judge(load(copy), {}).fidelity == before


def test_lists_of_other_texts_are_refused(copy):
    with np.load(copy / "arms/candidate/topk.npz") as file:
        arrays = {name: file[name] for name in file.files}
    arrays["prompt"][3] = "other"
    np.savez_compressed(copy / "arms/candidate/topk.npz", **arrays)
    with pytest.raises(DataError, match=r"^tiny_perplexity, document \d+: arms baseline and candidate were given"):
        judge(load(copy), {})


def test_a_run_without_lists_has_no_record(copy):
    for path in [*copy.glob("arms/*/topk.npz"), copy / "fidelity.json"]:
        path.unlink()
    assert judge(load(copy), {}).fidelity is None
    assert not (copy / "fidelity.json").exists()
    assert "Token-level fidelity" not in rendered(load(copy))


@pytest.mark.parametrize("damage", ["fidelity.json", "comparison.json"])
def test_what_is_derived_is_derived_again(copy, damage):
    before = load(copy).fidelity
    (copy / damage).write_text("{")
    assert judge(load(copy), {}).fidelity == before
    assert (load(copy).fidelity, load(copy).comparison.pairs != []) == (before, True)


def test_an_arm_whose_lists_are_cut_is_run_again(copy, run, monkeypatch):
    path = copy / "arms/candidate/topk.npz"
    path.write_bytes(path.read_bytes()[:-50])
    started = []
    monkeypatch.setattr(runner, "_job", lambda spec, *rest: started.append(spec.name) or in_this_process(spec, *rest))
    config = RunConfig(**load(copy).manifest.arguments).model_copy(update={"output": copy})
    again = runner.compare(config, argv=["compare", "MODEL"])
    assert started == ["candidate"]
    assert again.fidelity == run.fidelity


def test_the_report_says_that_it_is_a_lower_bound(run):
    text = rendered(run)
    table = report.table(run.fidelity)
    assert [tuple(row[:3]) for row in table.rows] == [
        ("tiny_perplexity", "candidate", "candidate"),
        ("tiny_perplexity", "repeat", "floor"),
    ]
    assert tuple(table.rows[1][3:7]) == ("0", "0", "0", "100.00 ± 0.00 %")
    assert set(table.wide) < set(table.header)
    assert minus(f"{of(run, 'candidate').statistics.kld.value:.2e} ± ") in text
    assert "KLD is a lower bound: of the distributions only the top 12 tokens are known" in text


def test_others_can_recompute_the_divergence_from_the_published_positions(run):
    table = parquet.read_table(run.folder / "divergence.parquet").to_pydict()
    candidate, repeat = (np.array(table[name], float) for name in ("candidate", "repeat"))
    assert len(candidate) == 800
    assert set(table["task"]) == {"tiny_perplexity"}
    assert candidate.mean() == pytest.approx(of(run, "candidate").statistics.kld.value, rel=1e-4)
    assert paired_difference(repeat, candidate, clusters=table["document"]) == of(run, "candidate").excess["repeat"]


def judged(run, **settings):
    found = with_divergence(pairs(run), run.fidelity)
    verdict = verdicts(found, {}, **settings).verdict
    return {task.task: task for task in verdict.tasks}


def test_divergence_beyond_the_floors_is_judged_beside_perplexity(run):
    found = judged(run)["tiny_perplexity KLD"]
    excess = of(run, "candidate").excess["repeat"]
    assert (found.metric, found.unit, found.margin) == ("kl_divergence", "nats", 0.005)
    assert found.interval.value == excess.value > 0
    assert found.floors["repeat"].identical
    assert found.floors["repeat"].excess.value == excess.value


@pytest.mark.parametrize(("margin", "verdict"), [(1e-6, "worse"), (1.0, "not established")])
def test_a_margin_of_divergence_is_given_like_any_other(run, margin, verdict):
    """Without a control nothing is equivalent."""
    found = judged(run, margins={"kl_divergence": margin})["tiny_perplexity KLD"]
    assert (found.margin, found.verdict) == (margin, verdict)


def test_a_gain_of_perplexity_beside_a_large_divergence_is_none(run):
    """Each document's perplexity got better by a tenth, and the distributions are others."""
    [candidate] = with_divergence(pairs(run), run.fidelity).candidates
    spread = np.random.default_rng(0).normal(0, 0.01, 40)

    def shifted(pair, **by):
        rows = [
            row.model_copy(update={"difference": mean(by[row.metric] + spread)})
            for row in pair.tasks
            if row.metric in by
        ]
        return pair.model_copy(update={"tasks": rows})

    control = shifted(candidate, word_perplexity=1.0, kl_divergence=1.0)
    control = control.model_copy(update={"candidate": "control", "role": "control"})
    words = {}
    for kl in (0.0, 0.1):
        arms = [shifted(candidate, word_perplexity=-0.1, kl_divergence=kl), control]
        [text, _] = decide(arms, {"candidate": {}}, {"kl_divergence": 0.05}, (), {}).tasks
        words[kl] = (text.verdict, text.reason)
    assert words[0.0][0] == "better"
    assert words[0.1][0] == "not established"
    assert "but the distributions moved: KL divergence +0." in words[0.1][1]


def test_divergence_is_shown_by_bands_of_context():
    context = np.array([1, 511, 512, 2_047, 2_048, 40_000])
    bands = kl_by_position(context, np.arange(6.0), np.arange(6))
    assert [(band.low, band.high, band.n) for band in bands] == [
        (0, 512, 2), (512, 2_048, 2), (2_048, 8_192, 1), (32_768, 131_072, 1),
    ]  # fmt: skip
    assert [band.difference.value for band in bands] == [0.5, 2.5, 4.0, 5.0]
