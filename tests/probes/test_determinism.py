"""The determinism probe: its arithmetic, and one real comparison of `sage_attn` with its exact variant."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from sage_eval.attention.source import source_hash
from sage_eval.cli import main
from sage_eval.errors import DataError, EngineError, UsageError
from sage_eval.probes.articles import cut
from sage_eval.probes.determinism import probe as module
from sage_eval.probes.determinism import record, run
from sage_eval.probes.determinism.probe import Answers, against, probe
from sage_eval.probes.determinism.record import WAYS, ArmResult, Determinism
from sage_eval.probes.determinism.table import markdown, text

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


def test_what_changes_bits_is_named_with_the_setting_that_is_without_it():
    other = Answers(ONE.logprobs + 0.5, ONE.outputs)
    ways = [against(ONE, other if way in {"batched", "shuffled", "prefix"} else ONE, way) for way in WAYS]
    arms = [
        ArmResult(arm="a", backend="b", ways=ways[1:], error=None),
        ArmResult(arm="c", backend="b", ways=[against(ONE, ONE, "repeat")], error=0.0),
    ]
    shown = text(Determinism(model="m", tokens=512, chunk=128, generated=2, arms=arms))
    batches = "batch-mates (none with `max_running_requests=1`)"
    assert (
        f"- a: {batches}, cached prefixes (none with `disable_radix_cache=True`)\n- c: nothing that was tried" in shown
    )


def test_where_the_same_request_differs_twice_nothing_else_is_blamed():
    other = Answers(ONE.logprobs + 0.5, ONE.outputs)
    arm = ArmResult(arm="a", backend="b", ways=[against(ONE, other, way) for way in WAYS][1:], error=None)
    shown = text(Determinism(model="m", tokens=512, chunk=128, generated=2, arms=[arm]))
    assert "- a: chance (the same request twice)\n" in shown


@pytest.mark.parametrize("setting", ["chunked_prefill_size=64", "disable_radix_cache=true"])
def test_what_the_probe_sets_itself_is_refused_before_an_engine_starts(reference_model, capsys, setting):
    arguments = ["probe", "determinism", str(reference_model), "--arms", "torch_native", "--model-args", setting]
    assert main(arguments) == 2
    assert f"{setting.partition('=')[0]}: the probe sets it itself" in " ".join(capsys.readouterr().err.split())


def test_the_command_writes_what_was_measured_by_whom_and_fails_for_an_arm(
    reference_model, tmp_path, monkeypatch, capsys
):
    answers = dict.fromkeys(WAYS, ONE)
    arms = iter([("b", dict(answers)), EngineError("no such kernel")])

    def measure(*_):
        written.append((tmp_path / record.DETERMINISM).exists())
        if isinstance(found := next(arms), Exception):
            raise found
        return found

    written = []
    monkeypatch.setattr(module, "_measure", measure)
    options = ["--arms", "torch_native,sage_attn", "--prompts", "1", "--tokens", "256", "--chunk", "64"]
    monkeypatch.setattr(run, "first_tokens", lambda *_: [(1,) * 256])
    assert main(["probe", "determinism", str(reference_model), *options, "--output", str(tmp_path)]) == 1
    assert written == [False, True]
    stored = record.read(tmp_path / record.DETERMINISM)
    assert [arm.failure for arm in stored.arms] == [None, "no such kernel"]
    assert stored.made
    assert stored.made.source == source_hash()
    assert set(stored.made.model["files"]) >= {"config.json", "tokenizer.json"}
    assert "**sage_attn failed:** no such kernel" in capsys.readouterr().out


class Failing:
    """In place of `open_arm`: an engine that does not start."""

    def __init__(self, error):
        self.error = error

    def __call__(self, **_):
        raise self.error


@pytest.fixture
def measured(monkeypatch):
    """Arms that are not `Failing` have answered."""
    real = module._measure
    answers = dict.fromkeys(WAYS, ONE)
    monkeypatch.setattr(
        module, "_measure", lambda opened, *rest: real(opened, *rest) if opened else ("b", dict(answers))
    )


@pytest.mark.usefixtures("measured")
def test_an_arm_that_fails_is_shown_and_the_others_are_measured():
    arms = [("a", None), ("gone", Failing(EngineError("no such kernel"))), ("c", None)]
    results = list(probe(arms, [(1,) * 300], chunk=64, generated=1))
    assert [(arm.arm, arm.failure, arm.error) for arm in results] == [
        ("a", None, None), ("gone", "no such kernel", None), ("c", None, 0.0),
    ]  # fmt: skip
    shown = text(Determinism(model="m", tokens=300, chunk=64, generated=1, arms=results))
    assert "**gone failed:** no such kernel" in shown
    assert "- gone" not in shown


@pytest.mark.usefixtures("measured")
def test_without_the_baseline_nothing_goes_on():
    with pytest.raises(EngineError, match="no such kernel"):
        list(probe([("a", Failing(EngineError("no such kernel"))), ("b", None)], [(1,) * 300], chunk=64, generated=1))


def test_the_section_is_the_table_and_how_to_read_it():
    stored = record.read(Path(__file__).parent / "stored" / "determinism_schema_1.json")
    assert [arm.arm for arm in stored.arms] == ["triton", "sage_attn"]
    section = markdown(stored)
    assert section.startswith("## Determinism\n\n8 prompts of 2,048 tokens;")
    assert text(stored) in section
    assert "is the floor" in section.removeprefix("## Determinism\n\n" + text(stored))
