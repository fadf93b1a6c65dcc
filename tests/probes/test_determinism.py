"""The determinism probe: its arithmetic, and one real comparison of `sage_attn` with its exact variant."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sage_eval.errors import DataError, UsageError
from sage_eval.probes import determinism
from sage_eval.probes.determinism import WAYS, Answers, ArmResult, Determinism, against, cut, probe, text

ONE = Answers(np.array([[-1.0, -2.0]]), [(1, 2)])


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


@pytest.mark.slow
@pytest.mark.engine
def test_a_batch_keeps_every_bit_and_chunks_do_not(open_arm, reference_model, prose):
    from transformers import AutoTokenizer

    ids = AutoTokenizer.from_pretrained(reference_model).encode(prose)
    prompts = [tuple(ids[start : start + 512]) for start in (0, 700, 1400)]
    [result] = probe([("sage", partial(open_arm, attention_backend="sage_attn"))], prompts, chunk=128, generated=4)
    ways = {way.way: way for way in result.ways}
    assert set(ways) == set(WAYS) - {"whole"}
    assert result.error is None
    for name in ("repeat", "batched", "shuffled"):
        assert (ways[name].identical, ways[name].largest, ways[name].same_output) == (3, 0, 3), name
    for name in ("chunked", "prefix"):  # the mean of K that smooths it is taken over what has been seen
        assert ways[name].identical == 0
        assert 0 < ways[name].mean < 0.1, name


def test_the_table_has_a_line_a_way_and_says_the_error():
    ways = [against(ONE, ONE, way) for way in WAYS if way != "whole"]
    arms = [ArmResult(arm=name, backend="b", ways=ways, error=error) for name, error in (("a", None), ("c", 0.015))]
    result = Determinism(model="m", tokens=512, chunk=128, generated=2, arms=arms)
    assert text(result).count("\n| ") == 1 + 2 * 5
    assert "both `whole`: c 0.015 nats" in text(result)
    assert Determinism.model_validate_json(result.model_dump_json()) == result


def test_the_section_is_the_table_and_how_to_read_it():
    stored = determinism.read(Path(__file__).parent / "stored" / "determinism_schema_1.json")
    assert [arm.arm for arm in stored.arms] == ["triton", "sage_attn"]
    section = determinism.markdown(stored)
    assert section.startswith("## Determinism\n\n8 prompts of 2,048 tokens;")
    assert text(stored) in section
    assert "is the floor" in section.removeprefix("## Determinism\n\n" + text(stored))
