"""Scores are what their definitions say: greedy decoding, and the loss that transformers computes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from reference_model.recipe.cells import LADDER, OWN
from reference_model.recipe.damage import batched, register
from reference_model.recipe.evaluate import Checkpoint
from reference_model.recipe.scoring import exact_matches, token_losses
from sage_eval.attention.numerics import attention

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(reference_model):
    return Checkpoint(reference_model, "float32")


@pytest.fixture(scope="module")
def samples(examiner):
    """Some that the model answers and some that it does not, of different lengths."""
    hard = next(cell for cell in LADDER if cell.task == "32 near lines")
    cells = [replace(OWN[0], length=200), replace(hard, length=900)]
    return [sample for cell in cells for sample in cell.samples(examiner, 6, seed=2)]


def test_an_exact_match_is_what_greedy_decoding_gives(model, samples):
    found = exact_matches(model, samples, batch_tokens=1000)
    for (prompt, answer), match in zip(samples, found, strict=True):
        ids = torch.tensor([prompt.astype(np.int64).tolist()])
        generated = model._model.generate(ids, max_new_tokens=len(answer), do_sample=False)[0, len(prompt) :]
        assert match == (generated.tolist() == answer.tolist())
    assert 0 < sum(found) < len(found)


def test_token_losses_sum_to_the_loss_of_transformers(model, prose):
    ids = list(range(100, 400))
    with torch.inference_mode():
        theirs = model._model(torch.tensor([ids]), labels=torch.tensor([ids])).loss
    assert float(token_losses(model, ids).mean()) == pytest.approx(float(theirs), abs=1e-5)


@pytest.mark.parametrize("variant", ["exact", "int8-fp16", "int4-fp16"])
def test_a_padded_batch_is_each_sequence_alone(variant):
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([200, 131, 64])
    q = torch.randn(3, 6, 200, 32, generator=generator)
    k, v = (torch.randn(3, 2, 200, 32, generator=generator) + 1 for _ in range(2))
    mask = torch.arange(200) < lengths[:, None]
    together = batched(q, k, v, mask, 32**-0.5, variant)
    for row, length in enumerate(lengths.tolist()):
        alone = (x[row, :, :length].transpose(0, 1) for x in (q, k, v))
        expected = attention(*alone, scale=32**-0.5, variant=variant)
        assert (together[row, :length] - expected).abs().max() < 2e-3  # an fp16 sum may round the other way


def test_padding_reaches_the_attention_through_transformers(reference_model):
    model = Checkpoint(reference_model, "float32", register("int8-fp16"))
    ids = torch.arange(300, 600).view(2, 150)
    alone = model.states(ids[1:, :90], torch.tensor([90]))[0]
    padded = ids.clone()
    padded[1, 90:] = 0
    together = model.states(padded, torch.tensor([150, 90]))[1, :90]
    assert (together - alone).abs().max() < 0.02 * alone.abs().max()
    wrong = model.states(padded, torch.tensor([150, 150]))[1, :90]
    assert (wrong - alone).abs().max() > 2 * (together - alone).abs().max()


def test_the_damage_is_graded_and_exact_is_none(reference_model, model, filler):
    ids = np.array(model_ids(reference_model, filler)[:300])
    exact = token_losses(model, ids)
    gaps = [
        float((token_losses(Checkpoint(reference_model, "float32", register(variant)), ids) - exact).abs().mean())
        for variant in ("exact", "int8-fp16", "int4-fp16")
    ]
    assert gaps[0] < 1e-4
    assert 10 * gaps[0] < gaps[1] < gaps[2] / 3


def model_ids(folder, text):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
