"""Shares of a card: whoever starts when, SGLang's own count leaves each engine the cache it was promised."""

import itertools

import pytest

from sage_eval.arms.turns import FRACTION, WORKSPACE, share
from sage_eval.compare import run
from sage_eval.compare.spec import arms
from sage_eval.config import RunConfig
from sage_eval.errors import UsageError

GIB = 1 << 30
QWEN = {"weight_bytes": GIB, "kv_bytes_per_token": 12_288}
LLAMA = {"weight_bytes": 15 * GIB, "kv_bytes_per_token": 131_072}


def cache(free_at_start, free_now, given, sizes):
    """Tokens of SGLang's cache: `kv_cache_configurator._profile_available_bytes`, and the limit that was given."""
    profiled = (free_now - free_at_start * (1 - given["mem_fraction_static"])) // sizes["kv_bytes_per_token"]
    return min(profiled, given["max_total_tokens"])


@pytest.mark.parametrize(
    ("free", "engines", "sizes", "window"),
    [
        (139 * GIB, 6, QWEN, 32_768),
        (139 * GIB, 2, LLAMA, 131_072),
        (79 * GIB, 2, LLAMA, 32_768),
        (23 * GIB, 2, QWEN, 2048),
    ],
)
def test_each_engine_has_its_cache_in_whatever_order_they_start(free, engines, sizes, window):
    given = share(free, engines, sizes, window)
    used = sizes["weight_bytes"] + given["max_total_tokens"] * sizes["kv_bytes_per_token"] + WORKSPACE
    assert engines * used <= free * (1 + 1e-9)
    for seen, there in itertools.product(range(engines), repeat=2):
        if seen <= there:  # so many had taken theirs when it looked first, and when it made its cache
            now = free - there * used - sizes["weight_bytes"]
            assert cache(free - seen * used, now, given, sizes) == given["max_total_tokens"]


def test_the_fraction_that_failed_is_not_what_is_given():
    assert share(139 * GIB, 6, QWEN, 8_192)["mem_fraction_static"] == FRACTION > 0.8 / 6


def test_one_engine_has_the_card_as_sglang_gives_it():
    assert share(139 * GIB, 1, QWEN, 8_192) == {}


def test_a_model_over_several_cards_takes_a_part_of_each():
    one, two = (share(139 * GIB, 2, LLAMA, 8_192, gpus=gpus)["max_total_tokens"] for gpus in (1, 2))
    assert two > 2 * one


@pytest.mark.parametrize(("engines", "fit"), [(6, 3), (4, 3)])
def test_too_many_are_refused_with_the_number_that_fits(engines, fit):
    with pytest.raises(UsageError, match=rf"{engines} engines .* do not fit .* up to 131,072; {fit} fit"):
        share(139 * GIB, engines, LLAMA, 131_072)


@pytest.fixture
def arm(monkeypatch):
    """`arm(**model_args)`: the baseline's arm on a card with 80 GiB free."""
    monkeypatch.setattr(run, "state", lambda: {"free_mib": 80 << 10})

    def told(**model_args):
        return arms(RunConfig(model="reference_model", model_args=model_args), "hash", {})[0]

    return told


def test_arms_that_share_a_card_are_given_their_part_and_stay_the_same_arms(arm):
    given = run.card_share(arm(), 3)
    assert given["mem_fraction_static"] == FRACTION
    assert given["max_total_tokens"] > 100_000
    assert not {*given} & arm().model_args.keys()


@pytest.mark.parametrize("by_hand", [{"mem_fraction_static": 0.3}, {"max_total_tokens": 5_000}])
def test_what_the_user_said_of_the_memory_holds(arm, by_hand):
    assert run.card_share(arm(**by_hand), 3) == {}


def test_a_card_of_its_own_and_no_card_at_all_need_no_share(arm, monkeypatch):
    assert run.card_share(arm(), 1) == {}
    monkeypatch.setattr(run, "state", lambda: None)
    assert run.card_share(arm(), 3) == {}


def test_a_model_whose_cache_is_unknown_is_refused_with_the_arguments_to_give(arm, monkeypatch):
    monkeypatch.setattr(run, "describe", lambda _: {"weight_bytes": 1 << 30})  # as of latent attention
    with pytest.raises(UsageError, match=r"--model-args mem_fraction_static=…,max_total_tokens=…"):
        run.card_share(arm(), 2)
