"""A real engine with `sage_attn`: coverage, planning under quantisation, and its death. One engine for the module."""

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import torch

from sage_eval.engine import host
from sage_eval.engine.requests import GenerateRequest, ScoreRequest
from sage_eval.errors import EngineError

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def arm(open_arm):
    """Fidelity settings, but with the prefix cache on, so that the tests decide what is cached."""
    return open_arm(attention_backend="sage_attn", disable_radix_cache=False)


@pytest.fixture(scope="module")
def text(reference_model, prose):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(reference_model).encode(prose)


def test_every_prompt_token_is_counted_by_a_sage_kernel(arm, text):
    before = arm.coverage
    arm.score([ScoreRequest(tuple(text[:300]), (5,)), ScoreRequest(tuple(text[300:420]), (6, 7, 8))])
    prefill = {name: n - before.tokens.get(name, 0) for name, n in arm.coverage.tokens.items() if "prefill/" in name}
    assert arm.coverage.counted
    assert sum(prefill.values()) == 300 + 122
    assert all(name.startswith("prefill/sage") for name in prefill)


def test_cached_tokens_are_not_computed_again(arm, text):
    prefix = tuple(text[500:800])
    arm.score([ScoreRequest(prefix, (5,))])
    before = arm.coverage
    arm.score([ScoreRequest((*prefix, 11, 12, 13), (5,))])
    assert arm.coverage.cached_tokens - before.cached_tokens == 300
    assert arm.coverage.computed_tokens - before.computed_tokens == 3
    with_prefix = sum(n for name, n in arm.coverage.tokens.items() if name.startswith("prefill_prefix/sage"))
    assert with_prefix >= 3


def test_the_cache_is_emptied_as_soon_as_nothing_runs(arm, text):
    """SGLang by itself refuses, without an error, while a step runs, and its overlapped scheduler runs one too many."""
    prompt = tuple(text[1000:1060])
    sampling = {"max_new_tokens": 100, "temperature": 0.0, "ignore_eos": True}
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(list, arm.transport.stream([{"input_ids": list(prompt), "sampling_params": sampling}]))
        time.sleep(0.3)
        assert not running.done(), "too short a text to be interrupted"
        arm.flush_cache()
    before = arm.coverage.cached_tokens
    arm.score([ScoreRequest(prompt, (5,))])
    assert arm.coverage.cached_tokens == before


def test_generation_counts_its_decode_steps(arm, text):
    before = sum(n for name, n in arm.coverage.tokens.items() if name.startswith("decode/"))
    (generation,) = arm.generate([GenerateRequest(tuple(text[900:950]), {"max_new_tokens": 5, "temperature": 0.0})])
    after = sum(n for name, n in arm.coverage.tokens.items() if name.startswith("decode/"))
    assert len(generation.tokens) == 5
    # The first new token comes out of the prefill. SGLang's overlapped scheduler may start one step too many.
    assert after - before in (4, 5)


def test_grouped_scores_equal_ungrouped_ones_under_quantisation_too(arm, text):
    requests = [ScoreRequest(tuple(text[2000:2150]), (answer,)) for answer in (330, 331, 332, 333)]
    grouped = [score.total for score in arm.score(requests)]
    arm.flush_cache()  # or the second time would take the prefix path
    alone = [arm.score(requests[:1])[0].total]
    assert grouped[:1] == pytest.approx(alone, abs=1e-3)


def test_chosen_ids_have_the_values_of_the_whole_lists_at_every_position(arm, text):
    """Whichever way this SGLang reads them: by our hook, or by itself."""
    ids, prompt = [3, 330, 5000], text[3000:3040]
    payload = {
        "input_ids": prompt,
        "sampling_params": {"max_new_tokens": 0, "temperature": 0.0},
        "return_logprob": True,
        "logprob_start_len": 0,
        "top_logprobs_num": 8192,
        "token_ids_logprob": ids,
    }
    [(_, reply)] = arm.transport.stream([payload])
    meta = reply["meta_info"]
    assert len(meta["input_token_ids_logprobs"]) == len(prompt)
    for part, first in (("input", 1), ("output", 0)):  # nothing is known of the prompt's first token
        pairs = zip(meta[f"{part}_top_logprobs"], meta[f"{part}_token_ids_logprobs"], strict=True)
        for whole, chosen in list(pairs)[first:]:
            known = {token: value for value, token, *_ in whole}
            assert [(token, value) for value, token, *_ in chosen] == [(token, known[token]) for token in ids]


@pytest.mark.slow
def test_leaving_the_last_token_out_costs_less_than_the_quantisation(arm, text, reference_model):
    """A prompt that includes its last token is quantised differently from one that ends before it.

    At the length of 5-shot questions that difference must stay below the backend's own error against exact attention,
    measured on the same answers. (Two independent roundings differ by up to √2 of their error; on prompts of 100-280
    tokens, where one token moves the mean of K further, it comes to that.)
    """
    from transformers import AutoModelForCausalLM

    exact = AutoModelForCausalLM.from_pretrained(reference_model, dtype=torch.float32)
    rng = random.Random(0)
    sizes = [(rng.randrange(len(text) - 801), rng.randint(600, 800)) for _ in range(6)]
    contexts = [(tuple(text[at : at + size]), (text[at + size], 330)) for at, size in sizes]
    requests = [ScoreRequest(context, (answer,)) for context, answers in contexts for answer in answers]
    arm.flush_cache()
    grouped = torch.tensor([score.total for score in arm.score(requests)])
    whole = torch.tensor(whole_prompts(arm, requests))
    with torch.inference_mode():
        rows = [exact(torch.tensor([context])).logits[0, -1].log_softmax(-1) for context, _ in contexts]
    truth = torch.stack([row[answer] for row, (_, answers) in zip(rows, contexts, strict=True) for answer in answers])

    left_out = (grouped - whole).square().mean().sqrt()
    quantisation = (whole - truth).square().mean().sqrt()
    assert 0 < quantisation < 0.2
    assert left_out < quantisation


def whole_prompts(arm, requests):
    """Log-probability of each one-token continuation, read from inside a prompt that includes it."""
    payloads = [
        {
            "input_ids": [*request.context, *request.continuation],
            "sampling_params": {"max_new_tokens": 0, "temperature": 0.0},
            "return_logprob": True,
            "logprob_start_len": 0,
        }
        for request in requests
    ]
    replies = dict(arm.transport.stream(payloads))
    return [replies[index]["meta_info"]["input_token_logprobs"][-1][0] for index in range(len(requests))]


def test_the_divergence_from_top_k_lists_is_a_lower_bound_and_near_for_many(arm, text, reference_model):
    """KL(exact attention in transformers ‖ this engine), whose lists are whole distributions with k = vocabulary."""
    from transformers import AutoModelForCausalLM

    from sage_eval.statistics.divergence import divergence

    prompt, vocabulary = text[3000:3120], 8192
    [score] = arm.score([ScoreRequest(tuple(prompt[:1]), tuple(prompt[1:]))], greedy=False, top=vocabulary)
    with torch.inference_mode():
        model = AutoModelForCausalLM.from_pretrained(reference_model, dtype=torch.float32)
        truth = model(torch.tensor([prompt[:-1]])).logits[0].double().log_softmax(-1)
    whole = np.empty((len(prompt) - 1, vocabulary))
    np.put_along_axis(whole, score.top.ids.astype(np.int64), score.top.logprobs, axis=1)
    # Distributions, as the bound asks for: in float32 torch's log_softmax sums to one within 7e-6, SGLang's own, from
    # later versions on, within 6e-7.
    mass = np.logaddexp.reduce(whole, axis=1, keepdims=True)
    assert abs(mass).max() < 1e-5
    whole -= mass
    exact = divergence(truth.numpy(), whole).kl
    bounds = []
    for k in (1, 16, 256, 4096):
        best = truth.topk(k)
        ids = score.top.ids[:, :k]
        logprobs = np.take_along_axis(whole, ids.astype(np.int64), axis=1)
        bounds.append(divergence(best.values.numpy(), logprobs, best.indices.numpy(), ids).kl)
        assert (bounds[-1] <= exact + 1e-9).all()
    means = [bound.mean() for bound in bounds]
    assert 0 < means[0] < means[1] < means[2] < means[3] <= exact.mean()
    assert means[3] > 0.9 * exact.mean() > 1e-5


def test_a_killed_scheduler_is_an_error_and_nothing_is_left(arm, text):
    """Last in the module: it ends the engine."""
    mine = set(arm.transport._watch.children)
    work = arm.transport.stream([{"input_ids": text[:1000], "sampling_params": {"max_new_tokens": 500}}])
    scheduler = next(process for process in mine if "scheduler" in " ".join(process.cmdline()) + process.name())
    os.kill(scheduler.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match="scheduler died"):
        list(work)
    arm.close()
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in mine)
    assert not mine & host.children()
    with pytest.raises(EngineError, match="closed"):
        arm.score([ScoreRequest((1,), (2,))])
