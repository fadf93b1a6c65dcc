"""Several candidates in one run: one baseline, a row for each and task, one correction over all of them."""

import pytest

from sage_eval.cli.report import show
from sage_eval.compare import run as runner
from sage_eval.compare.spec import arms
from sage_eval.config import from_sources
from sage_eval.errors import UsageError
from sage_eval.report.comparison import report
from sage_eval.report.worst import worst
from sage_eval.statistics.equivalence import holm
from sage_eval.store import load
from sage_eval.store.provenance import versions
from tests.compare.values import compared, in_this_process, rendered

SAGE8 = "sage_attn+fa3:variant=int8-fp8,smooth_k=off"
CANDIDATES = ("sage_attn", "sage_attn:variant=exact", "other")
NAMES = ["sage_attn", "sage_attn-exact", "other"]


@pytest.fixture(scope="module")
def several(tiny, tmp_path_factory):
    """Three candidates, of which `sage_attn` as it is loses a fifth of the right answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_job", in_this_process)
        config = tiny(
            lm="tests.compare.lms:PlantedLM", candidate=CANDIDATES, arms=("repeat", "control"),
            model_args={"loss": 0.2, "damage": 0.5, "noise": 0.002}, margin={"accuracy": 0.05, "retrieval": 0.06},
            min={"tiny_choice": 0.8}, output=tmp_path_factory.mktemp("several") / "run",
        )  # fmt: skip
        return runner.compare(config, argv=["compare", "MODEL"])


def test_candidates_are_typed_one_by_one_with_settings_of_their_own():
    config = from_sources({"model": "m", "candidate": f"sage_attn+fa3,{SAGE8},flashinfer"})
    assert config.candidate == ("sage_attn+fa3", SAGE8, "flashinfer")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("sage_attn,sage_attn", "sage_attn is named twice"),
        ("flashinfer:variant=exact", "variant is a setting of sage_attn"),
        ("sage_attn:varint=exact", "did you mean.*variant"),
    ],
)
def test_what_is_no_candidate_is_an_error_that_names_it(typed, message):
    with pytest.raises(UsageError, match=message):
        from_sources({"model": "m", "candidate": typed})


def test_one_candidate_is_called_so_and_several_by_what_they_are(tiny):
    assert [spec.name for spec in arms(tiny(candidate=(SAGE8,)), "hash", versions())] == ["baseline", "candidate"]
    found = arms(tiny(candidate=("sage_attn+fa3", SAGE8)), "hash", versions())
    assert [spec.name for spec in found[1:]] == ["sage_attn+fa3", "sage_attn+fa3-int8-fp8-smooth_k=off"]
    assert {spec.role for spec in found[1:]} == {"candidate"}


def test_a_candidate_s_own_settings_go_before_those_of_all(tiny):
    config = tiny(candidate=("sage_attn", "sage_attn:variant=exact"), attention={"variant": "int8-fp8"})
    _, first, second = arms(config, "hash", versions())
    assert (first.model_args["variant"], second.model_args["variant"]) == ("int8-fp8", "exact")


def test_the_first_sage_candidate_is_the_one_that_is_damaged(tiny):
    found = {s.name: s for s in arms(tiny(candidate=("other", "sage_attn+fa3"), arms=("control",)), "hash", versions())}
    assert found["control"].backend == "sage_attn+fa3"


def test_every_candidate_has_a_verdict_in_every_task(several):
    found = {(task.task, task.candidate): task.verdict for task in several.comparison.verdict.tasks}
    assert list(found)[:3] == [("tiny_choice", name) for name in NAMES]
    assert len(found) == 9
    assert found["tiny_choice", "sage_attn"] == "worse"
    assert {found["tiny_choice", name] for name in NAMES[1:]} == {"equivalent (blunt)"}
    assert several.comparison.verdict.verdict == "worse"
    assert "tiny_choice (sage_attn)" in several.comparison.verdict.reason


def test_holm_s_correction_is_over_all_candidates_and_tasks(several):
    raw = [
        next(r for r in pair.tasks if (r.task, r.metric) == (task.task, task.metric)).difference.p
        for task in several.comparison.verdict.tasks
        for pair in several.comparison.pairs
        if pair.candidate == task.candidate
    ]
    assert [task.p for task in several.comparison.verdict.tasks] == pytest.approx(list(holm(raw)))


def test_every_candidate_is_held_against_the_gates(several):
    passed = {gate.candidate: gate.passed for gate in several.comparison.gates}
    assert [passed[name] for name in NAMES] == [False, True, True]
    assert not several.comparison.passed


def test_the_excess_is_over_the_floor_by_the_candidate_itself(several):
    excess = {task.candidate: task.floors["repeat"].excess.value for task in several.comparison.verdict.tasks[:3]}
    assert excess["sage_attn"] < -0.1 < excess["other"]


def test_the_report_has_one_table_with_a_row_for_each(several, capsys):
    text = rendered(several)
    scores = text[text.index("| task | metric | candidate |") :].split("\n\n")[0].splitlines()[2:]
    assert [row.split(" | ")[2] for row in scores[:3]] == NAMES
    verdicts = text[text.index("| task | candidate | verdict |") :].split("\n\n")[0].splitlines()[2:]
    assert len(verdicts) == 9
    assert text.count("judged as the candidate is") == 1
    show(several, json=False)
    assert "sage_attn-exact" in capsys.readouterr().out


def test_figures_and_items_say_whose_they_are(several):
    whole = report(several)
    assert whole.title.endswith(": 3 candidates against plain")
    names = [figure.name for section in whole.sections for figure in section.figures]
    assert len(names) == len(set(names))
    assert len([name for name in names if name.startswith("retrieval-")]) == 3
    assert {item.task.partition(" ")[2] for item in worst(several)} >= {"(sage_attn)"}


def test_a_stored_run_of_several_is_read_again(several):
    again = load(several.folder)
    assert again.comparison == several.comparison
    assert compared(again.manifest, again.arms, {}).verdict.candidates == NAMES
