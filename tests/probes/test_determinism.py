"""The determinism probe: its arithmetic, and one real comparison of `sage_attn` with its exact variant."""

import numpy as np
import pytest

from sage_eval.errors import DataError, UsageError
from sage_eval.probes.determinism import Answers, ArmResult, Determinism, against, cut, probe, text


def test_identity_is_counted_by_prompt_and_differences_by_token():
    whole = Answers(np.array([[-1.0, -2.0], [-3.0, -4.0]]), [(1, 2), (3, 4)])
    other = Answers(np.array([[-1.0, -2.0], [-3.0, -4.5]]), [(1, 2), (3, 5)])
    found = against(whole, other, "batched")
    assert (found.identical, found.same_output, found.prompts) == (1, 1, 2)
    assert (found.mean, found.largest) == (0.125, 0.5)


def test_short_documents_are_passed_over_and_their_lack_is_said():
    documents = [[1, 2], [1, 2, 3, 4], [5, 6, 7]]
    assert cut(documents, 2, 3) == [(1, 2, 3), (5, 6, 7)]
    with pytest.raises(DataError, match="only 2 documents"):
        cut(documents, 3, 3)


def test_a_chunk_as_long_as_the_prompt_is_refused_before_an_engine_starts():
    with pytest.raises(UsageError, match="--chunk"):
        list(probe([], [(1,) * 300], chunk=300, generated=1))


@pytest.mark.engine
def test_batching_keeps_the_bits_and_every_way_is_nearer_than_the_quantisation(open_arm, reference_model, prose):
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(reference_model).encode(prose)
    prompts = [tuple(ids[start : start + 512]) for start in (0, 700, 1400)]
    arms = [
        (variant, lambda variant=variant, **more: open_arm(attention_backend="sage_attn", variant=variant, **more))
        for variant in ("exact", "int8-fp16")
    ]
    exact, sage = probe(arms, prompts, chunk=128, generated=4)
    assert exact.error is None
    assert sage.error > 0
    for way in sage.ways:
        if way.way in ("repeat", "batched", "shuffled"):
            assert (way.identical, way.same_output) == (3, 3), way
        else:
            assert 0 < way.mean < 2**0.5 * sage.error, way
    assert all(way.mean < 1e-4 for way in exact.ways)
    result = Determinism(model="m", tokens=512, chunk=128, generated=4, arms=[exact, sage])
    assert text(result).count("\n| ") == 1 + 2 * 5
    assert Determinism.model_validate_json(result.model_dump_json()) == result
    assert isinstance(result.arms[0], ArmResult)
