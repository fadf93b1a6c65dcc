import json
import shutil
from pathlib import Path

import pytest

from sage_eval.compare.run import judge
from sage_eval.errors import DataError
from sage_eval.store import load

STORED = sorted((Path(__file__).parent / "stored").iterdir())


@pytest.fixture
def copy(tmp_path):
    return Path(shutil.copytree(STORED[0], tmp_path / "run"))


@pytest.mark.parametrize("folder", STORED, ids=lambda folder: folder.name)
def test_old_run_folders_parse_for_ever(folder):
    run = load(folder)
    assert [(name, arm.record.spec.role) for name, arm in run.arms.items()][:2] == [
        ("baseline", "baseline"),
        ("candidate", "candidate"),
    ]
    for arm in run.arms.values():
        assert len(arm.samples) == arm.record.items > 0
        assert arm.results["results"]
        assert all(sample.prompt in run.prompts for sample in arm.samples)
    assert run.comparison.pairs[0].tasks


@pytest.mark.parametrize("folder", STORED, ids=lambda folder: folder.name)
def test_statistics_of_old_run_folders_come_out_the_same(folder, tmp_path):
    stored = load(folder).comparison
    margin = load(folder).manifest.arguments.get("margin")
    again = judge(load(shutil.copytree(folder, tmp_path / "run")), {}, margin).comparison
    if stored.verdict:
        # "blunt" is a word that is younger than these runs.
        old, new = (
            [(task.task, task.verdict.split(" (")[0]) for task in found.verdict.tasks] for found in (stored, again)
        )
        assert old == new
    for old, new in zip(stored.pairs[0].tasks, again.pairs[0].tasks, strict=True):
        assert (old.task, old.metric, old.n, old.flips) == (new.task, new.metric, new.n, new.flips)
        assert new.difference.value == pytest.approx(old.difference.value, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    "name", ["manifest.json", "prompts.jsonl.zst", "comparison.json", "arms/baseline/arm.json",
             "arms/candidate/samples.jsonl.zst", "arms/candidate/results.json"],
)  # fmt: skip
def test_every_file_cut_short_is_named(copy, name):
    (copy / name).write_bytes((copy / name).read_bytes()[:-20])
    with pytest.raises(DataError, match=f"{Path(name).name} is cut short") as error:
        run = load(copy)
        _ = run.prompts, run.comparison, [(arm.samples, arm.results) for arm in run.arms.values()]
    assert "\n" not in str(error.value)


def test_lost_samples_are_noticed(copy):
    path = copy / "arms/baseline/arm.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"items": 181}))
    with pytest.raises(DataError, match=r"has 180 items, arm\.json says 181"):
        _ = load(copy).arms["baseline"].samples


@pytest.mark.parametrize("name", ["manifest.json", "arms/baseline/arm.json", "arms/baseline/results.json"])
def test_a_version_from_the_future_is_refused(copy, name):
    path = copy / name
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 2}))
    with pytest.raises(DataError, match=f"{path.name}.*schema_version"):
        run = load(copy)
        _ = run.arms["baseline"].results


def test_what_is_no_run_folder_is_said(tmp_path):
    with pytest.raises(DataError, match="nowhere is not a run folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"cannot read .*manifest\.json.*is this a finished run folder"):
        load(tmp_path)
