"""The recipe from a folder of text to a checkpoint, on the CPU: it trains, exports, loads, and can be interrupted."""

import json
import math
from dataclasses import replace

import pytest
import torch

from reference_model.recipe.__main__ import parser, run
from reference_model.recipe.cells import OTHER, OWN
from reference_model.recipe.export import read_shards, write_shards
from reference_model.recipe.model import Llama
from reference_model.recipe.prepare import Sources, prepare
from reference_model.recipe.smoke import SHAPE, STEPS, settings
from reference_model.recipe.train import Run
from sage_eval.errors import DataError, UsageError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(corpus, tmp_path_factory):
    """The folder that the smoke run fills."""
    out = tmp_path_factory.mktemp("smoke")
    run(parser().parse_args(["all", "--smoke", "--corpus", str(corpus), "--out", str(out)]))
    return out


def test_transformers_loads_the_checkpoint_and_computes_what_was_trained(built):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(built / "checkpoint")
    theirs = AutoModelForCausalLM.from_pretrained(built / "checkpoint", dtype=torch.float32)
    ours = Llama(SHAPE, seed=1, dtype=torch.float32)
    ours.load_checkpoint(read_shards(built / "run"))
    ids = torch.tensor([tokenizer("The licence of this work, section 12.")["input_ids"]])
    with torch.inference_mode():
        difference = ours.logits(ours.hidden(ids)) - theirs(ids).logits
    assert difference.abs().max() < 1e-4
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters())


def test_training_lowered_the_loss(built):
    before, after = Llama(SHAPE, seed=0, dtype=torch.float32), Llama(SHAPE, seed=0, dtype=torch.float32)
    after.load_checkpoint(read_shards(built / "run"))
    trained = Run(settings(built / "data", built / "unused"))
    ids, weights = next(trained.loaders[0])
    losses = []
    for model in (before, after):
        sums = model.loss_sums(model.hidden(ids.long()[:, :-1]), ids.long()[:, 1:], weights[:, 1:])
        losses.append(float(sums[0] / sums[1]))
    assert losses[1] < losses[0] - 0.02  # the rate is still warming up


def test_an_interrupted_run_ends_in_the_weights_of_an_uninterrupted_one(built, tmp_path):
    assert not Run(settings(built / "data", tmp_path, stop_at=STEPS // 2 + 3)).train()
    half = read_shards(tmp_path)
    assert Run(settings(built / "data", tmp_path)).train()
    whole, resumed = read_shards(built / "run"), read_shards(tmp_path)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert any(not torch.equal(half[name], resumed[name]) for name in whole)


def test_an_evaluation_in_training_reads_validation_text_and_every_wording(corpus, reference_model, tmp_path):
    prepare(Sources(corpus, tokenizer=reference_model / "tokenizer.json"), tmp_path / "data", least=2)
    shape = replace(SHAPE, vocab_size=8192, max_position_embeddings=1024)
    run = Run(replace(settings(tmp_path / "data", tmp_path), shape=shape, evaluate_every=1e8))
    run.evaluate()
    logged = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert set(logged["validation"]) == {"books", "wiki"}
    assert all(abs(loss - math.log(8192)) < 0.5 for loss in logged["validation"].values())  # untrained
    assert list(logged["retrieval"]) == [cell.task for cell in (*OWN, *OTHER)]


def test_the_log_tells_settings_and_the_end(built):
    log = [json.loads(line) for line in (built / "run" / "log.jsonl").read_text().splitlines()]
    assert log[0]["event"] == "start"
    assert (log[0]["settings"]["seed"], log[0]["settings"]["from_weights"]) == (0, False)
    assert "data" not in log[0]["settings"]
    assert (log[-1]["event"], log[-1]["step"], log[-1]["finished"]) == ("end", STEPS, True)


def test_a_schedule_has_one_length(built, tmp_path):
    with pytest.raises(UsageError, match="steps or as minutes"):
        Run(settings(built / "data", tmp_path, minutes=1))


def test_shards_keep_to_their_limit_and_a_missing_one_is_named(tmp_path):
    tensors = {f"model.layers.{number}.weight": torch.full((100,), float(number)) for number in range(12)}
    write_shards(tensors, tmp_path, limit=1000)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == 6
    again = read_shards(tmp_path)
    assert all(torch.equal(again[name], tensor) for name, tensor in tensors.items())
    files[2].unlink()
    with pytest.raises(DataError, match=files[2].name):
        read_shards(tmp_path)
