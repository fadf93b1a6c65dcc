"""The most probable tokens of rolling texts, against the scores of the same engine and against transformers."""

import numpy as np
import pytest
import torch

from model_adapters._known import checked
from sage_eval.errors import UsageError

from .conftest import requests

K, WINDOW = 32, 150
VOCABULARY = 8192


@pytest.fixture(scope="module")
def scored(lm, prose):
    """Two texts in windows of 150 tokens: their log-likelihoods without and with lists, and what was kept."""
    texts = [prose[:1500], prose[3000:3900]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm.window, "length", WINDOW)
        without = lm.loglikelihood_rolling(requests("loglikelihood_rolling", *((text,) for text in texts)))
        assert lm.text_windows == []
        patch.setattr(lm, "top_logprobs", K)
        totals = lm.loglikelihood_rolling(requests("loglikelihood_rolling", *((text,) for text in texts)))
        kept, lm.text_windows = lm.text_windows, []
    return [lm.tok_encode(text) for text in texts], without, totals, kept


@pytest.mark.engine
def test_asking_for_lists_changes_no_score(scored):
    _, without, totals, _ = scored
    assert totals == pytest.approx(without, abs=1e-3)


@pytest.mark.engine
def test_each_token_of_each_text_is_in_one_window(scored):
    texts, _, totals, kept = scored
    whole = [token for text in texts for token in text]
    assert np.concatenate([window.targets for window in kept]).tolist() == whole
    assert max(window.targets.size for window in kept) == WINDOW
    assert [window.start for window in kept[:3]] == [0, WINDOW, 2 * WINDOW]
    # One token of context, but a text's last window is filled up with what came before it.
    assert {window.context + window.targets.size for window in kept} == {WINDOW + 1}
    assert len({window.prompt for window in kept}) == len(kept)
    assert sum(float(window.logprobs.sum()) for window in kept) == pytest.approx(sum(totals), abs=1e-2)


@pytest.mark.engine
def test_a_target_in_the_list_has_its_own_score_there(scored):
    *_, kept = scored
    found = 0
    for window in kept:
        row, column = np.nonzero(window.top.ids == window.targets[:, None])
        assert window.top.logprobs[row, column] == pytest.approx(window.logprobs[row], abs=1e-6)
        found += row.size
    assert found > 0.3 * sum(window.targets.size for window in kept)


@pytest.mark.engine
def test_lists_are_distributions_in_order(scored):
    *_, kept = scored
    for window in kept:
        ids, logprobs = window.top.ids, window.top.logprobs
        assert ids.shape == logprobs.shape == (window.targets.size, K)
        assert (np.diff(logprobs, axis=1) <= 0).all()
        assert (np.exp(logprobs.astype(np.float64)).sum(axis=1) <= 1 + 1e-5).all()
        assert all(len(set(row)) == K for row in ids.tolist())
        assert (window.logprobs <= logprobs[:, 0] + 1e-6).all()


@pytest.mark.engine
def test_they_are_the_ones_that_transformers_gives(scored, lm, reference_model):
    from transformers import AutoModelForCausalLM

    *_, kept = scored
    model = AutoModelForCausalLM.from_pretrained(reference_model, dtype=torch.float32)
    second = kept[1]
    prompt = [int(kept[0].targets[-1]), *second.targets[:-1].tolist()]
    with torch.inference_mode():
        truth = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    assert second.top.logprobs == pytest.approx(truth.topk(K).values.numpy(), abs=1e-3)
    named = truth.gather(1, torch.from_numpy(second.top.ids.astype(np.int64))).numpy()
    assert second.top.logprobs == pytest.approx(named, abs=1e-3)


class Config:
    vocab_size = VOCABULARY

    def get_text_config(self):
        return self


@pytest.mark.parametrize("value", [-1, "many", None])
def test_what_is_no_number_of_tokens_is_refused(value):
    with pytest.raises(UsageError, match=r"top_logprobs=.*must be 0 \(none\) or the number"):
        checked(value, Config())


def test_a_small_vocabulary_is_kept_whole():
    assert checked(VOCABULARY + 1, Config()) == VOCABULARY


@pytest.mark.parametrize("value", [0, "16", VOCABULARY])
def test_others_are_taken(value):
    assert checked(value, Config()) == int(value)
