"""Same weights, same requests: our model on SGLang against lm-eval's `hf` model, fp32, exact attention."""

import random

import pytest
import torch

from sage_eval.engine.requests import GenerateRequest, ScoreRequest

from .conftest import WINDOW, requests

TOLERANCE = 1e-3  # nats a token
TIE = 1e-4  # two best log-probabilities closer than this may change places

pytestmark = pytest.mark.engine
sizes = pytest.mark.parametrize(
    "count", [pytest.param(16, id="short"), pytest.param(100, id="full", marks=pytest.mark.slow)]
)


@pytest.fixture(scope="module")
def hf(reference_model):
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(reference_model), dtype="float32", device="cpu", batch_size=1, max_length=WINDOW)


def shuffled(seed, unique, repeats):
    """The unique requests and some of them again, in an order that has nothing to do with length."""
    rng = random.Random(seed)
    batch = [*unique, *rng.choices(unique, k=repeats)]
    rng.shuffle(batch)
    return batch


def piece(rng, prose, low, high):
    start = rng.randrange(len(prose) - high)
    return prose[start : start + rng.randint(low, high)]


def long_text(prose, lm, tokens):
    text = prose
    while len(lm.tok_encode(text)) < tokens:
        text += prose
    return lm.tok_decode(lm.tok_encode(text)[:tokens])


def gap(hf, prefix):
    """Difference of the two best log-probabilities after `prefix` (token ids)."""
    with torch.inference_mode():
        logits = hf.model(torch.tensor([prefix])).logits[0, -1]
    best, second = logits.log_softmax(-1).topk(2).values.tolist()
    return best - second


@sizes
def test_loglikelihood(lm, hf, prose, count):
    rng = random.Random(1)
    unique = [(piece(rng, prose, 20, 400), piece(rng, prose, 5, 60)) for _ in range(count // 2)]
    unique += [(text, f" {letter}") for text, _ in unique[: count // 8] for letter in "ABCD"]  # multiple choice
    unique += [("", piece(rng, prose, 5, 60)), ("The whale ", "is large"), (long_text(prose, lm, 4200), " and so on")]
    unique += [(long_text(prose, lm, WINDOW + 50), " and the rest of it")]  # loses its left end
    batch = requests("loglikelihood", *shuffled(2, unique, max(4, count - len(unique))))

    ours, theirs = lm.loglikelihood(batch), hf.loglikelihood(batch)

    for request, (our_total, our_flag), (their_total, their_flag) in zip(batch, ours, theirs, strict=True):
        context, continuation = request.args
        head, tail = hf._encode_pair(context, continuation) if context else ([1], hf.tok_encode(continuation))
        assert abs(our_total - their_total) <= TOLERANCE * len(tail), request.args
        if our_flag != their_flag:
            assert min(gap(hf, (head + tail[:at])[-WINDOW:]) for at in range(len(tail))) <= TIE, request.args


def test_what_the_engine_generates_greedily_is_flagged_greedy(lm, prose):
    """Random continuations are almost never greedy, so the flag needs some that are, and near misses."""
    rng = random.Random(5)
    prompts = [tuple(lm.tok_encode(piece(rng, prose, 40, 200))) for _ in range(12)]
    greedy = {"max_new_tokens": 6, "temperature": 0.0, "ignore_eos": True}
    answers = [g.tokens for g in lm.arm.generate([GenerateRequest(prompt, greedy) for prompt in prompts])]
    scores = lm.arm.score([ScoreRequest(*pair) for pair in zip(prompts, answers, strict=True)])
    assert all(score.greedy for score in scores)
    missed = [(*answer[:at], (answer[at] + 1) % 8192, *answer[at + 1 :]) for at, answer in enumerate(answers[:6])]
    scores = lm.arm.score([ScoreRequest(*pair) for pair in zip(prompts, missed, strict=False)])
    assert not any(score.greedy for score in scores)


@sizes
def test_loglikelihood_rolling(lm, hf, prose, count):
    rng = random.Random(3)
    unique = [(piece(rng, prose, 20, 300),) for _ in range(count * 3 // 4)]
    unique += [(long_text(prose, lm, WINDOW + 300),)]  # two windows
    batch = requests("loglikelihood_rolling", *shuffled(4, unique, max(4, count - len(unique))))

    ours, theirs = lm.loglikelihood_rolling(batch), hf.loglikelihood_rolling(batch)

    for request, our_total, their_total in zip(batch, ours, theirs, strict=True):
        assert abs(our_total - their_total) <= TOLERANCE * len(lm.tok_encode(request.args[0]))


@sizes
def test_generate_until(lm, hf, prose, count):
    rng = random.Random(6)
    kinds = [
        {"until": ["\n"], "max_gen_toks": 10},
        {"until": [".", ","], "max_gen_toks": 6, "do_sample": False},
        {"until": [" the"], "max_new_tokens": 8, "temperature": 0.0},
    ]
    unique = [(piece(rng, prose, 20, 300), rng.choice(kinds)) for _ in range(count * 3 // 4)]
    unique += [(long_text(prose, lm, 4100), kinds[0])]
    batch = requests("generate_until", *shuffled(7, unique, max(4, count - len(unique))))

    ours, theirs = lm.generate_until(batch), hf.generate_until(batch)

    for request, our_text, their_text in zip(batch, ours, theirs, strict=True):
        if our_text != their_text:
            prefix = lm.tok_encode(request.args[0])
            our_tokens, their_tokens = lm.tok_encode(our_text), lm.tok_encode(their_text)
            same = next(
                (at for at, (a, b) in enumerate(zip(our_tokens, their_tokens, strict=False)) if a != b),
                min(len(our_tokens), len(their_tokens)),
            )
            assert gap(hf, prefix + their_tokens[:same]) <= TIE, (request.args, our_text, their_text)


def test_grouped_scores_equal_whole_prompts_scored_one_by_one(lm, prose):
    """Four answers in one prompt, against each answer as a prompt of its own with its log-probabilities read inside."""
    rng = random.Random(8)
    pairs = [(piece(rng, prose, 50, 600), answer) for _ in range(6) for answer in (" A", " B", " C", " the whale")]
    pairs = [(text, answer) for text, _ in pairs[::4] for answer in (" A", " B", " C", " the whale")]
    grouped = lm.loglikelihood(requests("loglikelihood", *pairs))
    for (context, answer), (total, _) in zip(pairs, grouped, strict=True):
        head, tail = lm._encode_pair(context, answer)
        assert whole_prompt(lm, head, tail) == pytest.approx(total, abs=TOLERANCE * len(tail))


def whole_prompt(lm, head, tail):
    """Log-probability of `tail` with all of it in the prompt, as lm-eval's `sglang` model asks for it."""
    return sum(whole_prompt_tokens(lm, head + tail)[len(head) - 1 :])


def whole_prompt_tokens(lm, ids):
    """Log-probability of each token but the first."""
    payload = {
        "input_ids": ids,
        "sampling_params": {"max_new_tokens": 1, "temperature": 0.0},
        "return_logprob": True,
        "logprob_start_len": 0,
    }
    ((_, reply),) = lm.arm.transport.stream([payload])
    return [value for value, *_ in reply["meta_info"]["input_token_logprobs"][1:]]


def test_transformers_itself_agrees_with_both(lm, hf, prose, reference_model):
    """Token by token: the engine, and transformers without lm-eval around it, on the text that `hf` scores as a sum."""
    from transformers import AutoModelForCausalLM

    ids = lm.tok_encode(prose)[:700]
    model = AutoModelForCausalLM.from_pretrained(reference_model, dtype=torch.float32)
    with torch.inference_mode():
        logprobs = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    theirs = logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]

    assert whole_prompt_tokens(lm, ids) == pytest.approx(theirs.tolist(), abs=TOLERANCE)
    head, tail = ids[:1], ids[1:]
    ((total, _),) = hf._loglikelihood_tokens([(("", ""), head, tail)], disable_tqdm=True)
    assert total == pytest.approx(float(theirs.sum()), abs=TOLERANCE * len(tail))
