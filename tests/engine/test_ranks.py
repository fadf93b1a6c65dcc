"""Engines of two ranks on the CPU beside one of a single rank: the same scores; what the ranks count is summed."""

import pytest
import torch

from sage_eval.engine import coverage
from sage_eval.engine.arm import open_arm
from sage_eval.engine.options import ArmOptions
from sage_eval.engine.requests import ScoreRequest
from sage_eval.engine.scheduler_memory import SWITCH, read_ranks

pytestmark = [pytest.mark.slow, pytest.mark.engine]

REQUESTS = [ScoreRequest(tuple(range(5, 40 + 9 * i)), (7 + i, 11, 13)) for i in range(6)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small Llama whose heads two ranks can share."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "vocab_size": 512}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}
    config = LlamaConfig(**sizes, **heads, max_position_embeddings=512, bos_token_id=1, eos_token_id=2)
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def scored(model):
    """By the engine's arguments: the scores, the arm's coverage, and the states of its ranks, after two batches."""

    def score(**arguments):
        patch.setenv(SWITCH, "1")
        options = {"attention_backend": "sage_attn", "dtype": "float32", "max_length": 256, "skip_tokenizer_init": True}
        with open_arm(ArmOptions.from_arguments(model, **options, **arguments)) as arm:
            scores = [one.total for batch in (REQUESTS[:4], REQUESTS[4:]) for one in arm.score(batch)]
            return scores, arm.coverage, arm.info()["internal_states"]

    with pytest.MonkeyPatch.context() as patch:
        yield score


@pytest.fixture(scope="module")
def single(scored):
    return scored()


def test_two_data_parallel_ranks_score_as_one_and_their_coverage_is_summed(scored, single):
    scores, counted, states = scored(dp_size=2)
    assert scores == pytest.approx(single[0], abs=1e-4)
    assert counted.tokens == single[1].tokens
    assert sum(counted.prefill().values()) == counted.computed_tokens == single[1].computed_tokens
    ranks = [coverage.read_counters({"internal_states": [state]}) for state in states]
    assert len(ranks) == 2
    assert all(sum(rank.values()) > 0 for rank in ranks)
    assert {"peak_rank_0", "peak_rank_1"} <= read_ranks(states).keys()


def test_two_tensor_parallel_ranks_score_as_one_and_each_tells_its_memory(scored, single):
    scores, counted, states = scored(tp_size=2)
    assert scores == pytest.approx(single[0], abs=1e-2)
    assert counted.tokens == single[1].tokens
    memory = read_ranks(states)
    assert memory["peak_rank_0"] > 0 < memory["peak_rank_1"]
    alone = read_ranks(single[2])
    assert "peak_rank_0" not in alone
    assert memory["weights"] < alone["weights"]
