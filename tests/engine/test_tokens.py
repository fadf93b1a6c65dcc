"""Tokenisation without an engine, on small tokenizers with the habits of the large ones."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from sage_eval.engine.tokens import Tokens
from sage_eval.errors import DataError, PrerequisiteError, UsageError

WORDS = ["<s>", "</s>", "the", "whale", "is", "large", ":", "A", "B"]


def tokenizer(*, bos=True, eos=True, adds_bos=True):
    """A word-level tokenizer that, like Llama's, puts BOS first by default."""
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="the"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    names = {"bos_token": "<s>"} if bos else {}
    return PreTrainedTokenizerFast(tokenizer_object=core, **names | ({"eos_token": "</s>"} if eos else {}))


def test_bos_is_the_tokenizers_own_default():
    assert Tokens(tokenizer()).encode("the whale") == [0, 2, 3]
    assert Tokens(tokenizer(adds_bos=False)).encode("the whale") == [2, 3]


def test_bos_is_never_put_twice():
    """A chat template writes BOS itself."""
    assert Tokens(tokenizer()).encode("<s>the whale") == [0, 2, 3]
    assert Tokens(tokenizer(), add_bos=True).encode("<s>the whale") == [0, 2, 3]


def test_bos_can_be_switched_off():
    assert Tokens(tokenizer(), add_bos=False).encode("the whale") == [2, 3]
    assert Tokens(tokenizer()).encode("the whale", add_special_tokens=False) == [2, 3]


@pytest.mark.parametrize(
    ("arguments", "given", "prefix"),
    [({}, None, 0), ({"bos": False}, None, 1), ({}, 5, 5)],
    ids=["BOS", "EOS for want of BOS", "given"],
)
def test_the_prefix_of_texts_without_context(arguments, given, prefix):
    assert Tokens(tokenizer(**arguments), prefix=given).prefix == prefix


def test_a_tokenizer_without_eos_still_encodes_and_says_what_it_lacks():
    tokens = Tokens(tokenizer(bos=False, eos=False, adds_bos=False))
    assert tokens.encode("the whale") == [2, 3]
    assert tokens.eos_text is None
    with pytest.raises(UsageError, match="prefix_token_id="):
        _ = tokens.prefix


def test_a_result_may_be_changed_by_the_caller():
    tokens = Tokens(tokenizer())
    tokens.encode("the whale").append(99)
    assert tokens.encode("the whale") == [0, 2, 3]


def test_a_missing_tokenizer_is_one_line(tmp_path):
    with pytest.raises(PrerequisiteError, match="no tokenizer at"):
        Tokens.load(str(tmp_path), add_bos=None, prefix=None)


@pytest.mark.parametrize("text", ["the whale is", "<s>the whale", "", " the"])
@pytest.mark.parametrize("add_bos", [None, True, False])
@pytest.mark.parametrize("adds_bos", [True, False])
def test_token_ids_are_those_of_lm_evals_hf_model(text, add_bos, adds_bos):
    from lm_eval.models.huggingface import HFLM

    hf = HFLM.__new__(HFLM)
    hf.tokenizer, hf.add_bos_token, hf.custom_prefix_token_id = tokenizer(adds_bos=adds_bos), add_bos, None
    hf.backend = "causal"
    tokens = Tokens(tokenizer(adds_bos=adds_bos), add_bos=add_bos)
    assert tokens.encode(text) == hf.tok_encode(text)
    assert tokens.encode(text, add_special_tokens=False) == hf.tok_encode(text, add_special_tokens=False)


def test_a_single_id_is_decoded_and_a_text_cut_as_by_lm_evals_hf_model():
    from lm_eval.models.huggingface import HFLM

    from model_adapters.sglang_sage import SGLangSageLM

    hf, ours = HFLM.__new__(HFLM), SGLangSageLM.__new__(SGLangSageLM)
    hf.tokenizer, hf.add_bos_token, hf.custom_prefix_token_id, hf.backend = tokenizer(), None, None, "causal"
    ours.tokens = Tokens(tokenizer())
    assert ours.tok_decode(3) == hf.tok_decode(3) == "whale"
    for length in (None, 0, 2, 9):
        assert ours.tok_encode("the whale is", left_truncate_len=length) == hf.tok_encode(
            "the whale is", left_truncate_len=length
        )


def test_ids_beyond_the_models_embeddings_are_refused_with_both_numbers():
    Tokens(tokenizer()).check_vocabulary(len(WORDS))
    with pytest.raises(DataError, match=rf"ids up to {len(WORDS) - 1} \('B'\).*{len(WORDS) - 1} embeddings"):
        Tokens(tokenizer()).check_vocabulary(len(WORDS) - 1)


@pytest.mark.xfail(strict=True, reason="a defect of lm-eval's own model")
def test_lm_evals_sglang_model_drops_bos_by_default():
    from lm_eval.models.sglang_causallms import SGLangLM

    stock = SGLangLM.__new__(SGLangLM)
    stock.tokenizer, stock.add_bos_token = tokenizer(), False  # its constructor's default
    assert stock.tok_encode("the whale") == [0, 2, 3]


@pytest.mark.parametrize("add_bos", [None, True, False])
@pytest.mark.parametrize("adds_bos", [True, False])
def test_texts_encoded_together_have_the_ids_they_have_alone(add_bos, adds_bos):
    texts = ["the whale is", "<s>the whale", "", " the", "the whale is", "the whale : A"]
    together, alone = (Tokens(tokenizer(adds_bos=adds_bos), add_bos=add_bos) for _ in range(2))
    together.prepare(texts)
    assert set(together._prepared) == set(texts)
    assert [together.encode(text) for text in texts] == [alone.encode(text) for text in texts]


PAIRS = [
    ("the whale", " is"),
    ("the whale ", "is"),
    ("the whale:", " A"),
    ("the whale:", " B"),
    ("", "the"),
    ("", "<s> A"),
]


def test_pairs_encoded_together_are_lm_evals_one_by_one(reference_model):
    from lm_eval.api.model import TemplateLM

    from model_adapters.sglang_sage import SGLangSageLM
    from tests.model_adapters.conftest import requests

    def seen(loglikelihood):
        found = []
        lm = SGLangSageLM.__new__(SGLangSageLM)
        lm.tokens, lm._thinking = Tokens.load(str(reference_model), add_bos=None, prefix=None), False
        lm._loglikelihood_tokens = lambda pairs, **_: found.extend(pairs)
        loglikelihood(lm, requests("loglikelihood", *PAIRS), disable_tqdm=True)
        return found

    assert seen(SGLangSageLM.loglikelihood) == seen(TemplateLM.loglikelihood)
