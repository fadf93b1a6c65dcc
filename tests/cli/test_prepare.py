"""`sage-eval prepare` by the command line."""

import json
from pathlib import Path


def test_prepare_brings_what_tasks_load(call, tmp_path):
    import lm_eval.tasks

    from tests.data import standard

    task = Path(lm_eval.tasks.__file__).parent / "gsm8k" / "gsm8k.yaml"
    source = standard.write_folder(tmp_path / "source")
    code, out, err = call(
        "prepare", "--data-dir", tmp_path / "data", "--datasets", "", "--tasks", task, "--from", source
    )
    assert code == 0, err
    assert out.startswith(f"openai/gsm8k: {source}\n")
    assert (tmp_path / "data" / "hub" / "openai" / "gsm8k" / "README.md").is_file()


def test_prepare_copies_pins_and_says_how_to_go_on(call, wordy, tmp_path):
    source = tmp_path / "source"
    (source / "haystack").mkdir(parents=True)
    (source / "haystack" / "book.txt").write_text("Once upon a time.")
    model = wordy(eos=True)
    code, out, err = call("prepare", model, "--data-dir", tmp_path / "data", "--datasets", "haystack", "--from", source)
    assert code == 0, err
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert f"{len(manifest['files'])} files" in out
    assert (tmp_path / "data" / "models" / model.name / "config.json").is_file()
    assert f"HF_HUB_OFFLINE=1 sage-eval compare {tmp_path / 'data' / 'models' / model.name}" in err
