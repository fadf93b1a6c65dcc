"""Which kernel a sequence goes to, and what is counted."""

import pytest

from sage_eval.attention.routing import Route, route
from sage_eval.attention.settings import AttentionSettings
from sage_eval.errors import UsageError


def test_neighbours_with_the_same_kernel_share_a_route() -> None:
    routes, counts = route([0, 5, 0], [10, 20, 30], AttentionSettings(min_tokens=11))
    assert routes == [Route("triton-exact", 0, 1), Route("sage-paged-int8-fp16", 1, 3)]
    assert counts == {
        ("prefill", "triton-exact"): 10,
        ("prefill_prefix", "sage-paged-int8-fp16"): 20,
        ("prefill", "sage-paged-int8-fp16"): 30,
    }


def test_min_tokens_counts_the_prefix() -> None:
    routes, _ = route([90], [10], AttentionSettings(min_tokens=100))
    assert routes == [Route("sage-paged-int8-fp16", 0, 1)]


def test_the_package_gets_sequences_without_a_prefix() -> None:
    routes, _ = route([0, 5], [10, 20], AttentionSettings(kernel="package"), "1.0.6")
    assert routes == [Route("sage-package-1.0.6", 0, 1), Route("sage-paged-int8-fp16", 1, 2)]


def test_strict_forbids_what_the_package_cannot_serve() -> None:
    with pytest.raises(UsageError, match="prefix of 5"):
        route([0, 5], [10, 20], AttentionSettings(kernel="package", strict=True), "1.0.6")


def test_exact_is_counted_under_the_name_of_the_kernel_that_runs() -> None:
    _, counts = route([0], [10], AttentionSettings(variant="exact"))
    assert counts == {("prefill", "triton-exact"): 10}
