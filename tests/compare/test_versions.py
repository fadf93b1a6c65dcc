"""One arm in two runs, and a run that is made again: paired or set side by side, from what is stored."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sage_eval.cli import main
from sage_eval.compare import reproduce
from sage_eval.compare import run as runner
from sage_eval.compare.results import compare_runs
from sage_eval.compare.run import compare
from sage_eval.compare.spec import arms
from sage_eval.errors import DataError, UsageError
from sage_eval.statistics.estimate import Estimate
from sage_eval.store import load
from sage_eval.store.manifest import differing
from tests.compare.values import in_this_process, rewrite, twice

STORED = Path(__file__).parents[1] / "store" / "stored" / "schema_1_calibrated"


@pytest.fixture(scope="module")
def repaired(tmp_path_factory):
    """The stored run, whose candidate has a planted loss, with its repeated baseline in the candidate's place."""
    folder = Path(shutil.copytree(STORED, tmp_path_factory.mktemp("runs") / "repaired"))
    shutil.rmtree(folder / "arms" / "candidate")
    shutil.copytree(folder / "arms" / "repeat", folder / "arms" / "candidate")
    return folder


@pytest.fixture(scope="module")
def broken(repaired):
    """What the planted loss changed, over a version without it."""
    return compare_runs(load(repaired), load(STORED), "candidate", {"accuracy": 0.05}, ())


def test_a_loss_between_two_versions_is_found(broken):
    words = {task.task: task.verdict for task in broken.verdict.tasks}
    assert words["tiny_perplexity"] == "worse"
    assert broken.pairs[0].baseline == "repaired/candidate"
    assert broken.pairs[0].candidate == "schema_1_calibrated/candidate"


def test_what_the_first_run_damaged_is_the_control(broken):
    assert [pair.role for pair in broken.pairs] == ["candidate", "control", "floor"]
    assert broken.verdict.missing == ["floor"]
    assert all("control" in task.controls for task in broken.verdict.tasks)


def test_the_baselines_of_both_are_beside_it_and_unjudged(broken):
    floor = broken.pairs[-1]
    assert (floor.baseline, floor.candidate) == ("repaired/baseline", "schema_1_calibrated/baseline")
    assert all(row.identical for row in floor.tasks)
    assert {task.candidate for task in broken.verdict.tasks} == {"schema_1_calibrated/candidate"}


def test_nothing_is_said_where_nothing_changed(tmp_path, capsys):
    copy = shutil.copytree(STORED, tmp_path / "copy")
    assert main(["diff", str(STORED), str(copy), "--fail-on", "worse,loss-found,inconclusive,not-established"]) == 1
    assert main(["diff", str(STORED), str(copy), "--margin", "accuracy=0.05", "--arm", "candidate"]) == 0
    out = capsys.readouterr().out
    assert out.count("items are the same in both") == 2 * 2 * 3
    assert "nothing: versions, machine, model and data are the same" in out


def test_the_command_fails_on_a_loss_and_has_json(repaired, capsys):
    assert main(["diff", str(repaired), str(STORED), "--fail-on", "worse", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"]["verdict"] == "worse"


def test_two_runs_that_were_asked_otherwise_are_refused(run, copied):
    other = copied("other")
    for name in ("baseline", "candidate"):
        rewrite(other / "arms" / name / "samples.parquet", lambda sample: {"prompt": sample.prompt[::-1]})
    with pytest.raises(DataError, match="different prompts"):
        compare_runs(run, load(other), "candidate", {}, ())


def test_one_folder_and_an_unknown_arm_are_refused(repaired):
    first = load(STORED)
    with pytest.raises(UsageError, match="are one folder"):
        compare_runs(first, load(STORED), "candidate", {}, ())
    with pytest.raises(UsageError, match="has no arm candidat; it has baseline, candidate"):
        compare_runs(first, load(repaired), "candidat", {}, ())


def test_what_differs_names_both_sides():
    then = load(STORED).manifest
    now = then.model_copy(update={"versions": then.versions | {"torch": "9.9"}, "devices": [
        {"name": "NVIDIA H100", "driver": "1", "memory_gib": 80, "compute_capability": "9.0"}]})  # fmt: skip
    assert differing((then, ()), (now, ())) == [
        ("torch", then.versions["torch"], "9.9"), ("GPU", "none", "NVIDIA H100, driver 1"),
    ]  # fmt: skip
    assert differing((then, ()), (then, ())) == []


def test_what_differs_names_task_files_and_an_arms_own():
    then = load(STORED)
    spec = then.arms["candidate"].record.spec
    shifts = [spec.model_copy(update={"contents": {"shift": digest}}) for digest in ("a" * 64, "b" * 64)]
    assert differing((then.manifest, shifts[:1]), (then.manifest, shifts[1:])) == [
        ("candidate: shift", "a" * 16, "b" * 16)
    ]
    other = shifts[0].model_copy(update={"task_files": "c" * 64})
    assert ("task files", "c" * 16) in [row[::2] for row in differing(then.told, (then.manifest, [other]))]


@pytest.fixture
def copied(run, tmp_path):
    """`copied(name)`: a copy of the finished run."""
    return lambda name: Path(shutil.copytree(run.folder, tmp_path / name))


@pytest.fixture
def again(run, tmp_path):
    """`again(*flags)`: the exit code of making the finished run again."""

    def call(*flags, folder=run.folder):
        return main(["reproduce", str(folder), "--output", str(tmp_path / "again"), *flags])

    return call


def test_a_run_made_again_agrees(again, run, copied, capsys):
    """Its arms are taken up, as if the first call had been interrupted: other settings or seeds would be refused."""
    folder = copied("again")
    assert again() == 0
    out, err = capsys.readouterr()
    assert "12 of 12 numbers agree" in out
    assert err.count("finished earlier, kept") == 2
    assert load(folder).comparison == run.comparison


def test_a_number_that_does_not_come_out_again_fails(again, copied, capsys):
    copied("again")
    told = copied("told")
    rewrite(told / "arms" / "candidate" / "samples.parquet", twice)
    assert again("--json", folder=told) == 1
    found = [number for number in json.loads(capsys.readouterr().out)["numbers"] if not number["agrees"]]
    assert {(n["task"], n["of"]) for n in found} == {
        ("tiny_perplexity", "candidate"),
        ("tiny_perplexity", "difference"),
    }
    assert all(number["then"]["value"] > 1.5 * number["now"]["value"] for number in found)


@pytest.mark.slow
def test_a_run_is_made_again_in_full(again, run, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_job", in_this_process)
    assert again() == 0
    made = load(tmp_path / "again")
    for name, arm in run.arms.items():
        assert made.arms[name].record.fingerprint == arm.record.fingerprint
        assert made.arms[name].samples == arm.samples


def test_a_dry_run_says_what_it_takes_and_starts_nothing(again, run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sage_eval.compare.plan.plan", _Planned)
    assert again("--dry-run") == 0
    out = capsys.readouterr().out
    assert "Then it took" in out
    assert "the model is here" in out
    assert not (tmp_path / "again").exists()


@pytest.fixture
def with_data(tiny, tmp_path, monkeypatch):
    """A finished run whose tasks had a data folder, and the file in it."""
    file = tmp_path / "data" / "part.txt"
    file.parent.mkdir()
    file.write_text("then")
    monkeypatch.setattr(runner, "_job", in_this_process)
    monkeypatch.setattr("sage_eval.compare.plan.plan", _Planned)
    return compare(tiny(data_dir=file.parent, output=tmp_path / "first")).folder, file


@pytest.mark.parametrize(("words", "named"), [("then", False), ("now", True)])
def test_a_dry_run_names_data_that_differ(again, with_data, capsys, words, named):
    folder, file = with_data
    file.write_text(words)
    assert again("--dry-run", "--json", folder=folder) == 0
    rows = {name: sides for name, *sides in json.loads(capsys.readouterr().out)["differs"]}
    assert ("data" in rows) is named
    assert not named or len(set(rows["data"])) == 2


def test_a_dry_run_says_which_data_are_to_be_fetched(again, with_data, tmp_path, capsys):
    assert again("--dry-run", "--data-dir", str(tmp_path / "new"), folder=with_data[0]) == 0
    assert "to be fetched" in capsys.readouterr().out


class _Planned:
    def __init__(self, config):
        self.config = config

    def text(self):
        return f"plan of {self.config.model}"


def test_a_model_that_is_not_here_is_counted_and_not_fetched(run):
    config = reproduce.configuration(run, model="nobody/nothing")
    found = reproduce.outlook(run, config)
    assert found.download == run.manifest.model["bytes"]
    assert "of the model to fetch" in found.text()


def test_settings_and_seeds_are_those_of_the_run(run):
    config = reproduce.configuration(run, output=Path("elsewhere"))
    told = config.model_dump(mode="json") | {"output": None}
    assert told == run.manifest.arguments | {"output": None}
    assert config.model_fields_set == {*run.manifest.given, "output"}


def test_the_calibration_arms_are_those_that_the_run_had():
    """Other versions calibrate by other arms."""
    published = load(Path(__file__).parents[2] / "results" / "reference-model-h100")
    config = reproduce.configuration(published, data_dir=Path("data"))
    assert config.calibration == (
        "repeat", "reorder", "exact", "control", "control-unsmoothed", "stress=4", "stress=16", "stress=64",
    )  # fmt: skip
    assert [spec.name for spec in arms(config, "hash", {})] == list(published.arms)


def test_data_that_are_not_here_are_asked_for(run, tmp_path):
    arguments = run.manifest.arguments | {"data_dir": str(tmp_path / "gone")}
    moved = replace(run, manifest=run.manifest.model_copy(update={"arguments": arguments}))
    with pytest.raises(UsageError, match="is not here: give --data-dir"):
        reproduce.configuration(moved)
    assert reproduce.configuration(moved, data_dir=tmp_path / "new").data_dir == tmp_path / "new"


def test_a_run_of_a_later_version_is_named(run):
    arguments = run.manifest.arguments | {"newer": 1}
    later = replace(run, manifest=run.manifest.model_copy(update={"arguments": arguments}))
    with pytest.raises(DataError, match="newer"):
        reproduce.configuration(later)


def estimate(value, half=None):
    low, high = (None, None) if half is None else (value - half, value + half)
    return Estimate(value, half, low, high, 100, "made")


@pytest.mark.parametrize(
    ("then", "now", "agrees"),
    [
        (estimate(1.0, 0.2), estimate(1.3, 0.2), True),
        (estimate(1.0, 0.2), estimate(1.5, 0.2), False),
        (estimate(0.0, 0.0), estimate(1e-12, 0.0), True),
        (estimate(1.0), estimate(1.0005), True),
        (estimate(1.0), estimate(1.1, 5.0), False),
        (estimate(1.0, 0.2), None, False),
    ],
)
def test_numbers_agree_where_their_intervals_meet(then, now, agrees):
    assert reproduce.Number("task", "acc", "baseline", then, now).agrees is agrees


@pytest.mark.parametrize(
    ("kind", "of", "moved", "agrees"),
    [
        ("log-perplexity", "baseline", 0.003, True), ("log-perplexity", "baseline", 0.005, False),
        ("log-perplexity", "difference", 0.003, True), ("log-perplexity", "difference", 0.005, False),
        ("kl", "candidate", 0.0005, True), ("kl", "candidate", 0.002, False),
    ],
)  # fmt: skip
def test_without_an_interval_a_difference_is_close_by_the_size_of_its_score(run, kind, of, moved, agrees):
    """Another processor moves scores by less than a thousandth, and with them a difference by all that it is."""
    scores = (0.0, 0.01, 0.01) if kind == "kl" else (4.0, 4.0, 0.0)
    values = dict(zip(("baseline", "candidate", "difference"), map(estimate, scores), strict=True))
    pair = run.comparison.pairs[0]
    row = pair.tasks[0].model_copy(update={"kind": kind, "parent": None, "group": False, **values})
    other = row.model_copy(update={of: estimate(values[of].value + moved)})
    then, now = (
        run.comparison.model_copy(update={"pairs": [pair.model_copy(update={"tasks": [one]})]}) for one in (row, other)
    )
    assert all(number.agrees for number in reproduce.agreement(then, now)) is agrees
