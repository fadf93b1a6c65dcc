import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lm_eval.utils import make_table

from sage_eval.data import DATA_ENV
from tests.data.folders import ARTICLES, REAL, needs_real
from tests.tasks.lms import HashLM, evaluate

METRICS = ("word_perplexity", "byte_perplexity", "bits_per_byte")


def jackknife(items: list[tuple[float, ...]], statistic: Any) -> float:
    """Delete-one-cluster standard error; the cluster is the third entry, or the item."""
    clusters = [item[2] if len(item) == 3 else number for number, item in enumerate(items)]
    labels = sorted(set(clusters))
    without = [
        statistic([item for item, cluster in zip(items, clusters, strict=True) if cluster != label]) for label in labels
    ]
    count = len(labels)
    return math.sqrt((count - 1) / count * sum((value - np.mean(without)) ** 2 for value in without))


def perplexity(items: list[tuple[float, ...]]) -> float:
    return math.exp(-sum(item[0] for item in items) / sum(item[1] for item in items))


@pytest.fixture
def documents(small_data: Path, load: Any) -> dict[str, Any]:
    return evaluate(load("sage_wikitext"), HashLM(), log_samples=True, bootstrap_iters=0)


@pytest.fixture
def windows(small_data: Path, load: Any) -> dict[str, Any]:
    return evaluate(load("sage_wikitext_tokens", window=100), HashLM(), log_samples=True, bootstrap_iters=0)


def test_document_scores_are_those_of_lm_evals_wikitext(documents: dict[str, Any], built_in: Any) -> None:
    theirs = evaluate(built_in("wikitext", "wikitext"), HashLM(), log_samples=True)
    for metric in METRICS:
        assert (
            documents["results"]["sage_wikitext"][f"{metric},none"] == theirs["results"]["wikitext"][f"{metric},none"]
        )
    hashes = [
        [sample["prompt_hash"] for sample in run["samples"][name]]
        for run, name in ((documents, "sage_wikitext"), (theirs, "wikitext"))
    ]
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == ARTICLES


@pytest.mark.parametrize("metric", METRICS)
def test_a_document_standard_error_agrees_with_the_jackknife(documents: dict[str, Any], metric: str) -> None:
    items = [sample[metric] for sample in documents["samples"]["sage_wikitext"]]
    statistic = (lambda chosen: math.log2(perplexity(chosen))) if metric == "bits_per_byte" else perplexity
    found = documents["results"]["sage_wikitext"][f"{metric}_stderr,none"]
    assert found == pytest.approx(jackknife(items, statistic), rel=0.05)


def test_a_window_standard_error_is_clustered_by_document(
    small_data: Path, load: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "".join(
        f" \n = Town {number} = \n \n {'The old town lies on a river . ' * (25 + number)}\n"
        for number in range(ARTICLES)
    )
    (small_data / "wikitext2" / "wiki.test.raw").write_text(text)
    run = evaluate(load("sage_wikitext_tokens", window=100), HashLM(), log_samples=True)
    items = [sample["token_perplexity"] for sample in run["samples"]["sage_wikitext_tokens"]]
    assert len({item[2] for item in items}) < len(items) / 2, "several windows a document"
    found = run["results"]["sage_wikitext_tokens"]["token_perplexity_stderr,none"]
    assert found == pytest.approx(jackknife(items, perplexity), rel=0.05)


def test_the_table_shows_the_standard_error(documents: dict[str, Any]) -> None:
    table = make_table(documents)
    assert table.splitlines()[0].replace(" ", "").startswith("|Tasks|Version|Filter|n-shot|Metric|")
    for metric in METRICS:
        line = next(line for line in table.splitlines() if f"|{metric}" in line)
        assert "N/A" not in line
        shown = float(line.split("|")[-2])
        assert shown == pytest.approx(documents["results"]["sage_wikitext"][f"{metric}_stderr,none"], abs=5e-4)


def test_too_few_documents_have_no_standard_error(small_data: Path, load: Any) -> None:
    run = evaluate(load("sage_wikitext"), HashLM(), limit=8)
    assert run["results"]["sage_wikitext"]["word_perplexity_stderr,none"] == "N/A"


def test_shots_asked_for_on_the_command_line_reach_no_perplexity(small_data: Path, load: Any) -> None:
    for task in load("sage_wikitext", "sage_wikitext_tokens", window=100)["tasks"].values():
        assert task.get_config("num_fewshot") == 0, "lm-eval never overrides a zero"


def test_token_perplexity_is_over_the_scored_tokens(windows: dict[str, Any]) -> None:
    samples = windows["samples"]["sage_wikitext_tokens"]
    items = [sample["token_perplexity"] for sample in samples]
    assert [item[1:] for item in items] == [(sample["doc"]["tokens"], sample["doc"]["document"]) for sample in samples]
    assert windows["results"]["sage_wikitext_tokens"]["token_perplexity,none"] == pytest.approx(
        perplexity(items), rel=1e-12
    )


def test_windows_ignore_chat_templates_and_system_prompts(small_data: Path, load: Any) -> None:
    plain, chat = HashLM(), HashLM()
    evaluate(load("sage_wikitext_tokens", window=100), plain)
    evaluate(load("sage_wikitext_tokens", window=100), chat, apply_chat_template=True, system_instruction="Be brief.")
    assert plain.requests == chat.requests


@needs_real
@pytest.mark.slow
def test_the_real_test_set_in_windows_of_2048_tokens(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_ENV, str(REAL))
    documents = list(load("sage_wikitext_tokens")["tasks"]["sage_wikitext_tokens"].eval_docs)
    assert len(documents) == 185
    assert min(document["length"] for document in documents) >= 2040
    assert max(document["length"] for document in documents) == 2048
    assert {document["document"] for document in documents} <= set(range(62))
