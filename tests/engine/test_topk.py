import base64

import numpy as np
import pytest

from sage_eval.engine.requests import ScoreRequest, read_score, score_payload
from sage_eval.errors import EngineError

REQUEST = ScoreRequest((1, 2), (3, 4, 5))


def reply(rows=2):
    """SGLang's flat form for REQUEST with k = 2: the positions within the prompt, and the nested one after it."""
    ids = np.array([[3, 7], [8, 4]], np.int32)[:rows]
    logprobs = np.array([[-0.5, -1.5], [-0.25, -2.0]], np.float32)[:rows]
    return {
        "meta_info": {
            "input_token_logprobs": [(None, 2, None), (-0.5, 3, None), (-2.0, 4, None)],
            "output_token_ids_logprobs": [[(-1.0, 5, None)]],
            "output_top_logprobs": [[(-0.75, 9, None), (-1.0, 5, None)]],
            "input_top_logprobs_shape": list(ids.shape),
            "input_top_logprobs_idx_flat_b64": base64.b64encode(ids.tobytes()).decode(),
            "input_top_logprobs_val_flat_b64": base64.b64encode(logprobs.tobytes()).decode(),
        }
    }


def test_the_lists_within_the_prompt_and_the_one_after_it_become_one_array():
    score = read_score(REQUEST, reply(), greedy=False, top=2)
    assert score.logprobs == (-0.5, -2.0, -1.0)
    assert score.top.ids.tolist() == [[3, 7], [8, 4], [9, 5]]
    assert score.top.logprobs.tolist() == [[-0.5, -1.5], [-0.25, -2.0], [-0.75, -1.0]]
    assert (score.top.ids.dtype, score.top.logprobs.dtype) == (np.int32, np.float32)


def test_a_longer_continuation_in_the_same_group_is_cut_to_the_requests_own_positions():
    score = read_score(ScoreRequest((1, 2, 3), (4, 5)), reply(), greedy=False, top=2)
    assert score.top.ids.tolist() == [[8, 4], [9, 5]]


def test_one_token_has_the_list_after_the_prompt_only():
    meta = {key: reply()["meta_info"][key] for key in ("output_token_ids_logprobs", "output_top_logprobs")}
    score = read_score(ScoreRequest((1, 2, 3, 4), (5,)), {"meta_info": meta}, greedy=False, top=2)
    assert score.top.ids.tolist() == [[9, 5]]


def test_the_greedy_flag_is_read_from_the_same_lists():
    assert read_score(REQUEST, reply(), greedy=True, top=2).greedy is False
    assert read_score(ScoreRequest((1, 2, 3), (4, 9)), _best(), greedy=True, top=2).greedy is True


def _best():
    best = reply()
    best["meta_info"]["input_token_logprobs"][-1] = (-0.25, 8, None)
    best["meta_info"]["output_token_ids_logprobs"] = [[(-0.75, 9, None)]]
    return best


def test_without_asking_there_are_none():
    assert "return_flat_raw_top_logprobs" not in score_payload([REQUEST], greedy=True)
    assert score_payload([REQUEST], greedy=False)["top_logprobs_num"] == 0
    assert score_payload([REQUEST], greedy=True, top=16)["top_logprobs_num"] == 16


def missing(key):
    broken = reply()
    del broken["meta_info"][key]
    return broken


@pytest.mark.parametrize(
    "broken",
    [reply(rows=1), missing("input_top_logprobs_shape"), missing("input_top_logprobs_val_flat_b64")],
    ids=["too few rows", "no shape", "no values"],
)
def test_a_reply_without_its_lists_is_an_error(broken):
    with pytest.raises(EngineError, match="lacks logprobs"):
        read_score(REQUEST, broken, greedy=False, top=2)
