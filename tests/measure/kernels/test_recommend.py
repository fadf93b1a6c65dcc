"""What a benchmark's numbers recommend."""

from pathlib import Path

import pytest

from sage_eval.measure.kernels.cases import Case
from sage_eval.measure.kernels.instrument import Timing
from sage_eval.measure.kernels.recommend import recommend, text
from sage_eval.store import record as records

PUBLISHED = Path(__file__).resolve().parents[3] / "results" / "kernels-h200-first" / "bench.jsonl"


def row(kernel, new, ms, dim=128, batch=1, prefix=0):
    return Timing(arm=kernel, cell=Case(new, prefix, batch, dim).name, block=0, ms=(ms, ms, ms))


def both(ours, rival="fa3-paged", variant="int8-fp16"):
    """Rows of ratio rival/ours by length."""
    return [r for new, ratio in ours.items() for r in (row(variant, new, 1.0), row(rival, new, ratio))]


def test_short_sequences_are_left_to_the_exact_kernel():
    [advice] = recommend(both({512: 0.5, 1024: 0.9, 4096: 1.1, 8192: 1.2}))
    assert (advice.variant, advice.min_tokens, advice.rival) == ("int8-fp16", 4096, "fa3")


def test_a_dip_at_a_long_length_moves_the_start_behind_it():
    [advice] = recommend(both({1024: 1.1, 4096: 0.9, 8192: 1.2}))
    assert advice.min_tokens == 8192


def test_what_is_faster_throughout_needs_no_limit():
    [advice] = recommend(both({512: 1.1, 8192: 2.0}, rival="triton-extend"))
    assert (advice.min_tokens, advice.rival) == (0, "triton")
    assert "min_tokens" not in text([advice])


def test_what_is_never_faster_is_not_recommended():
    [advice] = recommend(both({512: 0.5, 8192: 0.9}))
    assert (advice.variant, advice.min_tokens) == (None, None)
    assert "keep fa3" in text([advice])


def test_the_slowest_batch_of_a_length_decides():
    [advice] = recommend(
        [*both({1024: 1.3}), row("int8-fp16", 1024, 1.0, batch=16), row("fa3-paged", 1024, 0.8, batch=16)]
    )
    assert advice.ratios == {1024: 0.8}


def test_prefixes_and_the_parts_of_a_kernel_do_not_count():
    rows = [row("int8-fp16", 4096, 1.0, prefix=8), row("fa3-paged", 4096, 9.0, prefix=8)]
    rows.append(Timing(arm="fa3", cell="c", block=0, absent="no"))
    assert recommend(rows) == []
    assert "nothing to recommend" in text([])


def test_the_variant_that_wins_earlier_is_taken():
    times = {"fa3-paged": (1.0, 1.0), "int8-fp16": (1.1, 0.7), "int8-fp8": (0.9, 0.8)}
    rows = [row(kernel, new, ms) for kernel, pair in times.items() for new, ms in zip((1024, 8192), pair, strict=True)]
    assert recommend(rows)[0].variant == "int8-fp8"


def test_the_published_measurement_speaks_for_long_prompts_only():
    advice = {one.head_dim: one for one in recommend(records.read(Timing, PUBLISHED, "kernels").rows)}
    assert (advice[128].variant, advice[128].min_tokens, advice[128].rival) == ("int8-fp16", 8192, "fa3")
    assert advice[128].ratios[32768] == pytest.approx(648 / 599, rel=0.01)
    assert advice[64].variant is None
