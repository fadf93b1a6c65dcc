"""The probe with real engines, and what happens when the disk is full or an engine dies."""

import contextlib
import json
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from sage_eval.cli import app
from sage_eval.engine.requests import ScoreRequest
from sage_eval.errors import EngineError, UsageError
from sage_eval.probes.logits import tap
from sage_eval.probes.logits.chunks import chunk_path
from sage_eval.probes.logits.plan import choose
from sage_eval.probes.logits.probe import DiskFullError, Wanted, Work, _rows, probe, workspace
from sage_eval.statistics.divergence import divergence

VOCABULARY = 8192


def left_behind():
    return set(Path(tempfile.gettempdir()).glob("sage-eval-logits-*"))


@pytest.fixture(scope="module")
def tokenizer(reference_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(reference_model)


@pytest.fixture(scope="module")
def work(tokenizer, prose):
    ids = tokenizer.encode(prose)
    prompts = choose([ids[:700], ids[700:1400]], prompts=2, positions=60, longest=600, seed=0)
    return Work(prompts, VOCABULARY, "prose", [prompt.tokens for prompt in prompts[:2]], 4)


def refused(**_):
    raise UsageError("this arm cannot be")


@contextlib.contextmanager
def also_scored(opened, scores, prompts, **arguments):
    """An arm that answers the same prompts once more, by SGLang's own log-probabilities and top-k lists."""
    with opened(**arguments) as arm:
        yield arm
        # Alone, and with one token more to be scored, so that the engine computes the very same chunks.
        requests = [ScoreRequest(prompt.tokens[:1], (*prompt.tokens[1:], 5)) for prompt in prompts]
        scores.append([arm.score([request], top=20)[0] for request in requests])


@pytest.mark.slow
@pytest.mark.engine
def test_the_whole_vocabulary_agrees_with_sglangs_own_logprobs_and_top_k_lists(open_arm, work, tokenizer):
    before = left_behind()
    scores = []
    baseline = partial(also_scored, partial(open_arm, attention_backend="torch_native"), scores, work.prompts)
    # In chunks of 128 the prompts pass by in pieces.
    damaged = partial(open_arm, attention_backend="sage_attn", variant="int4-fp16", chunked_prefill_size=128)
    candidate = partial(also_scored, damaged, scores, work.prompts)
    arms = [
        Wanted("torch_native", {}, "baseline", baseline),
        Wanted("impossible", {}, "candidate", refused),
        Wanted("sage", {}, "candidate", candidate),
    ]
    first, broken, other = probe(arms, work, tokenizer.decode)
    assert left_behind() == before
    assert first.distances is None
    assert broken.error == "this arm cannot be"
    found = other.distances.fidelity.statistics
    places = [np.array(prompt.positions) for prompt in work.prompts]
    assert found.positions == sum(map(len, places))

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
    assert other.generated.prompts == 2


@pytest.mark.slow
@pytest.mark.engine
def test_the_same_arm_again_is_nothing_apart_and_chunks_change_little(open_arm, work, tokenizer):
    exact = partial(open_arm, attention_backend="torch_native")
    arms = [
        Wanted("torch_native", {}, "baseline", exact),
        Wanted("again", {}, "floor", exact),
        Wanted("chunked", {}, "candidate", partial(exact, chunked_prefill_size=128)),
    ]
    _, again, chunked = probe(arms, work, tokenizer.decode)
    found = again.distances
    assert (found.largest, found.largest_true, found.fidelity.statistics.kld.value) == (0, 0, 0)
    assert again.generated.exact.value == 1
    assert chunked.distances.fidelity.statistics.kld.value < 1e-7
    assert chunked.distances.largest < 0.01


@pytest.mark.slow
@pytest.mark.engine
def test_an_engine_that_dies_is_that_arms_error_and_nothing_stays_behind(open_arm, work, tokenizer):
    from sage_eval.engine import host

    @contextlib.contextmanager
    def dying(**arguments):
        with open_arm(attention_backend="torch_native", **arguments) as arm:
            host.kill(arm.transport._watch.children)
            yield arm

    before = left_behind()
    arms = [
        Wanted("good", {}, "baseline", partial(open_arm, attention_backend="torch_native")),
        Wanted("bad", {}, "floor", dying),
    ]
    good, bad = probe(arms, work, tokenizer.decode)
    assert good.error is None
    assert "died" in bad.error
    with pytest.raises(EngineError, match="died"):
        list(probe([arms[1]], work, tokenizer.decode))
    assert left_behind() == before


def test_a_disk_that_is_too_small_is_refused_and_the_folder_is_gone():
    before = left_behind()
    with pytest.raises(DiskFullError, match="TMPDIR"), workspace(1 << 60):
        pass
    assert left_behind() == before


def test_a_disk_that_fills_up_is_said_and_does_not_kill_the_scheduler(tmp_path, work):
    import torch

    folder = tmp_path / "0"
    folder.mkdir()
    chunk_path(folder, "prompt-0000").symlink_to("/dev/full")
    prompt = work.prompts[0]
    rows = tap.reduce(torch.zeros(len(prompt.positions), VOCABULARY), prompt.targets)
    tap._append(folder, "prompt-0000", list(prompt.positions), rows)
    with pytest.raises(DiskFullError, match="No space left on device"):
        _rows(folder, 0, prompt, VOCABULARY, "b")


def test_rows_that_were_not_computed_are_missed(tmp_path, work):
    import torch

    prompt = work.prompts[0]
    rows = tap.reduce(torch.zeros(3, VOCABULARY), prompt.targets[:3])
    with pytest.raises(EngineError, match="no distributions"):
        _rows(tmp_path, 0, prompt, VOCABULARY, "b")
    tap._append(tmp_path, "prompt-0000", list(prompt.positions[:3]), rows)
    with pytest.raises(EngineError, match=f"3 of {len(prompt.positions)} positions"):
        _rows(tmp_path, 0, prompt, VOCABULARY, "b")


def test_nan_is_an_error_of_the_engine(tmp_path, work):
    import torch

    prompt = work.prompts[0]
    broken = torch.zeros(len(prompt.positions), VOCABULARY)
    broken[0, 5] = torch.nan
    tap._append(tmp_path, "prompt-0000", list(prompt.positions), tap.reduce(broken, prompt.targets))
    with pytest.raises(EngineError, match="NaN"):
        _rows(tmp_path, 0, prompt, VOCABULARY, "b")


def test_the_hook_is_what_sglang_takes(tmp_path):
    from sglang.srt.model_executor.hook_manager import resolve_callable

    (tmp_path / tap.PLAN).write_text(json.dumps({}))
    spec = tap.hook(tmp_path)
    assert callable(resolve_callable(spec["hook_factory"])(spec["config"]))


def test_prefill_graphs_are_refused_before_an_engine_starts(reference_model, prose, tmp_path):
    (text := tmp_path / "prose.txt").write_text(prose)

    def asked(settings):
        arguments = ["probe", "logits", str(reference_model), "--arms", "torch_native", "--positions", "1"]
        return CliRunner().invoke(app, [*arguments, "--text", str(text), "--model-args", settings]).exception

    assert "prompts cannot be told apart" in str(asked("disable_cuda_graph=false"))
    # Decode graphs are fine: what is refused next is the number of positions.
    assert "--positions 1 for" in str(asked("disable_cuda_graph=false,disable_prefill_cuda_graph=true"))
