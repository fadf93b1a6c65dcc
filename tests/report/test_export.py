"""A run in other people's formats, each read by what it is meant for."""

import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import yaml

from sage_eval.report.export import EXPORTERS, export, nameless
from sage_eval.store import load
from sage_eval.store.comparison import Comparison
from sage_eval.store.other_tools import read
from sage_eval.store.samples import Sample
from tests.report.full_run import STORED

RESULTS = Path(__file__).parents[2] / "results"
LATEX = next(filter(None, map(shutil.which, ("pdflatex", "tectonic", "xelatex"))), None)


@pytest.fixture(scope="module")
def run():
    return load(STORED)


def test_the_frame_has_the_numbers_of_the_comparison(run):
    [data] = export(run, "csv").values()
    frame = pd.read_csv(io.BytesIO(data)).set_index(["arm", "task", "metric"])
    for pair in run.comparison.pairs:
        for row in pair.tasks:
            found = frame.loc[pair.candidate, row.task, row.metric]
            assert found["difference"] == pytest.approx(row.difference.value)
            assert found["low"] == pytest.approx(row.difference.low)
            assert found["n"] == row.n
    assert frame.loc["candidate", "tiny_perplexity", "word_perplexity"]["verdict"] == "worse"
    assert len(frame) == sum(len(pair.tasks) for pair in run.comparison.pairs)


def test_parquet_is_the_same_frame(run):
    [data] = export(run, "parquet").values()
    again = pd.read_parquet(io.BytesIO(data))
    [text] = export(run, "csv").values()
    assert again.to_csv(index=False).encode() == text


def test_a_pull_request_has_accuracy_speed_and_the_command(run):
    [data] = export(run, "pr").values()
    text = data.decode()
    assert re.findall("^## .*", text, re.MULTILINE) == [
        "## Motivation", "## Modifications", "## Accuracy Tests", "## Speed Tests and Profiling", "## Checklist",
    ]  # fmt: skip
    assert "**Verdict: worse in 1 of 3 tasks" in text
    assert f"```sh\n{run.manifest.command}\n```" in text
    assert "Not measured in this folder" in text


def test_measured_speed_is_in_a_pull_request(tmp_path):
    folder = shutil.copytree(STORED, tmp_path / "run")
    shutil.copy("results/serving-h200-new-kernels/serving.json", folder)
    [data] = export(load(folder), "pr").values()
    speed = data.decode().partition("## Speed Tests and Profiling")[2]
    assert "### Serving: llama-3.1-8b" in speed
    assert "NVIDIA H200" in speed
    assert "Not measured" not in speed


def test_a_model_card_is_read_by_the_hub_library(run):
    from huggingface_hub import ModelCard

    [data] = export(run, "hf-card").values()
    card = ModelCard(data.decode())
    found = {(r.dataset_name, r.metric_type, r.metric_args["arm"]): r.metric_value for r in card.data.eval_results}
    [candidate] = (pair for pair in run.comparison.pairs if pair.role == "candidate")
    choice = next(row for row in candidate.tasks if row.task == "tiny_choice")
    assert found["tiny_choice", "acc", "baseline"] == choice.baseline.value
    assert found["tiny_choice", "acc", "candidate"] == choice.candidate.value
    assert yaml.safe_load(card.data.to_yaml())["model-index"][0]["name"] == "reference_model"


@pytest.fixture(scope="module")
def layout(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("layout")
    for name, data in export(run, "lm-eval").items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_lm_evals_own_table_maker_reads_the_results(run, layout):
    from lm_eval.utils import get_results_filenames, make_table

    files = [str(path) for path in (layout / "candidate").rglob("*")]
    [results] = get_results_filenames(files)
    table = make_table(json.loads(Path(results).read_text()))
    score = run.arms["candidate"].results["results"]["tiny_choice"]["acc,none"]
    assert re.search(rf"tiny_choice\s*\|.*\|acc\s*\|↑\s*\|\s*{score:.4f}\|", table)


def test_samples_have_the_names_and_fields_that_lm_evals_readers_want(layout):
    from lm_eval.utils import get_file_datetime, get_file_task_name, get_sample_results_filenames

    files = [str(path) for path in (layout / "baseline").rglob("*")]
    samples = get_sample_results_filenames(files)
    assert {get_file_task_name(name.rpartition("/")[2]) for name in samples} == {
        "tiny_choice", "tiny_perplexity", "tiny_needle",
    }  # fmt: skip
    [results] = (name for name in files if "/results_" in name)
    assert {get_file_datetime(name) for name in samples} == {get_file_datetime(results).removesuffix(".json")}


def test_lm_evals_files_give_the_same_samples_again(run, layout):
    ours = {sample.key: sample for sample in run.arms["candidate"].samples}
    again = read(layout / "candidate").samples
    assert {sample.key for sample in again} == ours.keys()
    for sample in again:
        kept = ours[sample.key]
        assert sample.metrics == kept.metrics
        if kept.greedy:  # lm-eval writes the likelihood of a whole text as if it were an answer
            assert (sample.logprobs, sample.greedy) == (kept.logprobs, kept.greedy)


def test_a_number_that_json_has_not_is_one_again():
    from sage_eval.report.export.layout import _sample

    text = _sample(
        Sample(task="t", doc_id=0, prompt="p", metrics={"word_perplexity": (-3.0, 2)}, logprobs=[-3.0]),
        {"requests": [[{"head": "a", "tail": "b", "characters": 9_000}]]},
    )
    assert text["arguments"] == {"gen_args_0": {"arg_0": "a […] b"}}
    assert text["resps"] == [["-3.0"]]


@pytest.fixture(scope="module")
def table(run):
    [data] = export(run, "latex").values()
    return data.decode("ascii")


def test_a_latex_table_is_well_formed(table):
    assert [table.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    rows = [line for line in table.splitlines() if line.endswith(r"\\")]
    columns = re.search(r"\\begin{tabular}{([lr]+)}", table)[1]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns) - 1}
    assert table.count("{") == table.count("}")
    body = table.partition("\n")[2]
    assert re.findall(r"(?<!\\)[_#%]", body) == []
    assert body.count("$") % 2 == 0
    assert r"tiny\_perplexity" in table
    assert "worse" in table


@pytest.mark.skipif(LATEX is None, reason="no LaTeX is installed")
@pytest.mark.parametrize("folder", [STORED, RESULTS / "reference-model-h100", RESULTS / "qwen2.5-coder-0.5b-h200"])
def test_a_latex_table_compiles_and_is_no_wider_than_a_line(folder, tmp_path):
    [table] = export(load(folder), "latex").values()
    packages = "\\documentclass{article}\\usepackage{booktabs,graphicx}\n"
    (tmp_path / "page.tex").write_text(f"{packages}\\begin{{document}}\n{table.decode()}\\end{{document}}\n")
    told = subprocess.run([LATEX, "page.tex"], cwd=tmp_path, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    assert (tmp_path / "page.pdf").stat().st_size > 1_000
    assert b"Overfull" not in told.stdout


def test_a_latex_table_of_several_arms_has_their_numbers_and_the_caption_their_names():
    [data] = export(load(RESULTS / "qwen2.5-coder-0.5b-h200"), "latex").values()
    rows = [line.split(" & ") for line in data.decode().splitlines() if line.endswith(r"\\")][1:]
    assert [row[2] for row in rows[:4]] == ["1", "2", "3", "4"]
    assert r"Arms: 1 sage\_attn+fa3, 2 sage\_attn+fa3-balance" in data.decode()


def test_a_latex_table_has_one_row_per_task(table):
    """WikiText's three perplexities say the same."""
    rows = [line.split(" & ") for line in table.splitlines() if line.endswith(r"\\")][1:]
    assert [row[0] for row in rows] == [r"tiny\_choice", r"tiny\_perplexity", r"tiny\_needle"]
    [text] = [row for row in rows if "perplexity" in row[0]]
    assert text[1] == r"word ppl $\downarrow$"
    assert r"\pm" not in " ".join(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("--data-dir /home/alice/data --limit 3", "--data-dir data --limit 3"),
        ("../shared/data and ~/models/llama-8b/", "data and llama-8b"),
        ('{"pretrained": "/mnt/x/m"}', '{"pretrained": "m"}'),
        ("http://node17:30000/v1 and http://10.0.0.3/", "http://HOST/v1 and http://HOST/"),
        ("meta-llama/Llama-3.1-8B, flips −/+, p = 1/2, 3 s/s", "meta-llama/Llama-3.1-8B, flips −/+, p = 1/2, 3 s/s"),
        ("https://huggingface.co/a/b", "https://huggingface.co/a/b"),
    ],
)
def test_paths_and_hosts_go_and_names_stay(text, shown):
    assert nameless(text) == shown


@pytest.mark.parametrize("form", EXPORTERS)
def test_an_anonymous_export_names_no_folder(run, form, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(STORED, folder)
    for path in [*folder.rglob("*.json")]:
        path.write_text(path.read_text().replace('"reference_model"', '"/home/alice/secret-lab/reference_model"'))
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace("compare reference_model", "compare /home/alice/reference_model"))
    files = export(load(folder), form, anonymise=True)
    everything = b"".join([*(name.encode() for name in files), *files.values()])
    assert b"alice" not in everything
    assert b"secret-lab" not in everything
    if form not in ("latex",):
        assert b"reference_model" in everything


def test_the_command_prints_text_and_asks_where_to_put_folders(tmp_path, capsys):
    from sage_eval.cli import main

    assert main(["export", str(STORED), "--format", "latex"]) == 0
    assert capsys.readouterr().out.startswith("% \\usepackage{booktabs,graphicx}")
    assert main(["export", str(STORED), "--format", "parquet"]) == 2
    assert "--format parquet: say where to with --output" in capsys.readouterr().err
    assert main(["export", str(STORED), "--format", "lm-eval", "--output", str(tmp_path / "out")]) == 0
    assert len([*(tmp_path / "out").rglob("samples_*.jsonl")]) == 3 * len(Comparison.model_validate_json(
        (STORED / "comparison.json").read_text()).arms)  # fmt: skip


def test_formats_of_the_command_are_those_that_there_are():
    from sage_eval.cli.folders import Form

    assert [str(form) for form in Form] == [*EXPORTERS]
