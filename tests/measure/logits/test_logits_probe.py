"""The probe with real engines, and what happens when the disk is full or an engine gives less than it should."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from sage_eval.cli import main
from sage_eval.engine.requests import ScoreRequest
from sage_eval.errors import EngineError, PrerequisiteError
from sage_eval.measure.logits import tap
from sage_eval.measure.logits.instrument import LogitsProbe
from sage_eval.measure.logits.plan import LogitsPlan, Work, choose
from sage_eval.measure.logits.tap import chunk_path
from sage_eval.measure.logits.worker import read_rows
from sage_eval.statistics.divergence import divergence

VOCABULARY = 8192
INT4, FLOOR = "sage_attn:variant=int4-fp16", "torch_native+torch_native"
ENGINE = {"dtype": "float32", "chunked_prefill_size": 128}
"""In chunks of 128 the prompts pass by in pieces."""
SAGE = {"attention_backend": "sage_attn", "variant": "int4-fp16"}
[PROMPT] = choose([range(600)], prompts=1, positions=30, longest=500, seed=0)


@pytest.fixture(scope="module")
def plan(reference_model, prose, tmp_path_factory):
    folder = tmp_path_factory.mktemp("logits")
    (text := folder / "prose.txt").write_text(prose)
    return LogitsPlan(
        model=str(reference_model), arms=f"torch_native,{INT4},{FLOOR}", prompts=2, positions=60, longest=600,
        continuations=2, generated=4, text=[text], model_args=ENGINE, output=folder / "run", scratch=folder,
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows(plan):
    record, _ = LogitsProbe().measure(plan)
    assert not any(arm.error for arm in record.arms.values())
    return {row.arm: row for row in record.rows}


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.timeout(1800)
def test_whole_vocabulary_agrees_with_sglangs_own_logprobs_and_top_k_lists(rows, plan, open_arm, reference_model):
    prompts = Work.of(reference_model, plan).prompts
    found = rows[INT4].distances.fidelity.statistics
    places = [np.array(prompt.positions) for prompt in prompts]
    assert found.positions == sum(map(len, places))

    scores = []
    for arguments in ({"attention_backend": "torch_native"}, SAGE):
        arm = open_arm(**arguments, **ENGINE)
        # Alone, and with one token more to be scored, so that the engine computes the very same chunks.
        requests = [ScoreRequest(prompt.tokens[:1], (*prompt.tokens[1:], 5)) for prompt in prompts]
        scores.append([arm.score([request], top=20)[0] for request in requests])
    base, cand = (
        np.concatenate([np.array(score.logprobs)[at] for score, at in zip(arm, places, strict=True)]) for arm in scores
    )
    assert found.log_perplexity.value == pytest.approx((base - cand).mean(), abs=1e-4)
    assert found.delta_p.value == pytest.approx((np.exp(cand) - np.exp(base)).mean(), abs=1e-5)
    lists = [
        [
            np.concatenate([getattr(score.top, name)[at] for score, at in zip(arm, places, strict=True)])
            for arm in scores
        ]
        for name in ("logprobs", "ids")
    ]
    bound = divergence(*lists[0], *lists[1])
    assert 0 < bound.kl.mean() <= found.kld.value
    assert found.kld.value < 3 * bound.kl.mean()
    assert found.same_top.value == bound.same_top.mean() < 1
    assert rows[INT4].generated.prompts == 2


@pytest.mark.slow
@pytest.mark.engine
@pytest.mark.timeout(1800)
def test_same_arm_again_is_a_floor_of_zero_and_nothing_stays_behind(rows, plan):
    found = rows[FLOOR].distances
    assert found.fidelity.role == "floor"
    assert (found.largest, found.largest_true, found.fidelity.statistics.kld.value) == (0, 0, 0)
    assert rows[FLOOR].generated.exact.value == 1
    assert rows["torch_native"].distances is None
    assert not list(plan.scratch.glob("sage-eval-logits-*"))


def test_disk_that_is_too_small_is_refused_before_an_engine_starts(plan, reference_model, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    with pytest.raises(PrerequisiteError, match=r"0\.0 GiB free, .*--scratch"):
        LogitsProbe().check(plan, reference_model)


def kept(folder, count=30, first=0.0):
    """What the hook writes of the prompt's first positions."""
    import torch

    logits = torch.zeros(count, VOCABULARY)
    logits[0, 5] = first
    tap._append(folder, "prompt-0000", list(PROMPT.positions[:count]), tap.reduce(logits, PROMPT.targets[:count]))


def test_disk_that_fills_up_is_said_and_does_not_kill_the_scheduler(tmp_path):
    chunk_path(tmp_path, "prompt-0000").symlink_to("/dev/full")
    kept(tmp_path)
    with pytest.raises(PrerequisiteError, match="No space left on device"):
        read_rows(tmp_path, 0, PROMPT, VOCABULARY, "b")


def test_positions_that_were_not_computed_are_missed(tmp_path):
    with pytest.raises(EngineError, match="no distributions"):
        read_rows(tmp_path, 0, PROMPT, VOCABULARY, "b")
    kept(tmp_path, count=3)
    with pytest.raises(EngineError, match=f"3 of {len(PROMPT.positions)} positions"):
        read_rows(tmp_path, 0, PROMPT, VOCABULARY, "b")


def test_nan_is_an_error_of_the_engine(tmp_path):
    kept(tmp_path, first=float("nan"))
    with pytest.raises(EngineError, match="NaN"):
        read_rows(tmp_path, 0, PROMPT, VOCABULARY, "b")


def test_hook_is_what_sglang_takes(tmp_path):
    from sglang.srt.model_executor.hook_manager import resolve_callable

    (tmp_path / tap.PLAN).write_text(json.dumps({}))
    spec = tap.hook(tmp_path)
    assert callable(resolve_callable(spec["hook_factory"])(spec["config"]))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("disable_cuda_graph=false", "prompts cannot be told apart"),
        # Decode graphs are fine: what is refused next is the number of positions.
        ("disable_cuda_graph=false,disable_prefill_cuda_graph=true", "--positions 1 for"),
    ],
)
def test_prefill_graphs_are_refused_before_an_engine_starts(plan, reference_model, capsys, settings, said):
    arguments = ["probe", "logits", str(reference_model), "--arms", "torch_native", "--positions", "1"]
    assert main([*arguments, "--text", str(plan.text[0]), "--model-args", settings]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
