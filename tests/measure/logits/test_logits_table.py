"""Rows, the view and figures from synthetic distances; greedy texts."""

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from sage_eval.measure.logits.instrument import LogitsProbe
from sage_eval.measure.logits.plan import choose
from sage_eval.measure.logits.record import Logits, Served
from sage_eval.measure.logits.reduce import Distances, classes, compare_texts, first_difference, summarise
from sage_eval.measure.logits.tap import STEP
from sage_eval.report.measurements import text
from sage_eval.store import record as records
from sage_eval.store.record import ArmEntry

STORED = Path(__file__).parent / "stored" / "schema_1.json"
RNG = np.random.default_rng(0)
PROMPTS = choose([range(5000)] * 35, prompts=35, positions=1050, longest=4000, seed=0)
SERVED = Served(vocabulary=100, resolution=STEP, classes=classes(PROMPTS))


def decode(ids):
    return " ".join(map(str, ids))


def synthetic(prompt, scale):
    n = len(prompt.positions)
    noise = scale * RNG.normal(size=n)
    tops = np.zeros((2, n), np.int64)
    return Distances(noise**2, np.full(n, -2.0), -2.0 + noise, tops, np.abs(noise), np.full(n, 1e-6))


def row(name, scale, role):
    parts = [synthetic(prompt, scale) for prompt in PROMPTS]
    found = summarise(PROMPTS, parts, decode, texts="prose", arm=name, role=role)
    common = {"arm": name, "cell": "all", "block": 0, "backend": "b", "seconds": 1.0, "served": SERVED}
    return parts, Logits(**common, distances=found, generated=TEXTS)


TEXTS = compare_texts([(1, 2, 3), (4, 5)], [(1, 2, 3), (4, 6)], decode)
PARTS, CANDIDATE = row("sage_attn", 0.1, "candidate")
BASELINE = CANDIDATE.model_copy(update={"arm": "triton", "distances": None, "generated": None})


@pytest.fixture(scope="module")
def record():
    arms = {
        "triton": ArmEntry(role="baseline", arguments={}),
        "sage_attn": ArmEntry(role="candidate", arguments={}),
        "triton+triton": ArmEntry(role="floor", arguments={}),
        "fa3": ArmEntry(role="floor", arguments={}, error="SGLang's scheduler died: no kernel"),
    }
    rows = [BASELINE, CANDIDATE, row("triton+triton", 0.0, "floor")[1]]
    stored = records.read(Logits, STORED, "logits")
    return stored.model_copy(
        update={"baseline": "triton", "settings": {"texts": "prose", "seed": 0}, "arms": arms, "rows": rows}
    )


def test_summary_is_of_all_positions_and_its_parts_make_up_the_whole():
    found = CANDIDATE.distances
    kl = np.concatenate([part.kl for part in PARTS])
    assert found.fidelity.statistics.kld.value == pytest.approx(kl.mean())
    assert found.fidelity.statistics.kld.units == 35  # documents, not positions
    for parts in (found.by_length, found.by_position):
        assert sum(part.positions for part in parts) == len(kl)
        assert sum(part.positions * part.kld.value for part in parts) == pytest.approx(kl.sum())
    assert [part.name for part in found.by_length] == ["short", "medium", "long"]
    assert [place.kld for place in found.worst] == sorted(kl, reverse=True)[:20]


def test_one_of_the_worst_shows_the_text_around_it():
    place = CANDIDATE.distances.worst[0]
    prompt = PROMPTS[place.prompt]
    at = place.context_tokens - 1
    assert place.before.endswith(str(prompt.tokens[at]))
    assert place.token == str(prompt.tokens[at + 1])
    assert at in prompt.positions


def test_terminal_shows_the_arms_the_floor_and_what_failed(record):
    words = text(LogitsProbe().view(record), folded=False)
    assert words.count("| sage_attn | ") == 4 + 1  # all and three classes; the greedy texts
    assert words.count("| triton+triton (floor) | ") == 4
    assert "**fa3 failed:** SGLang's scheduler died: no kernel" in words
    assert "| sage_attn | 1/2 | " in words
    assert "<details>" not in words


def test_positions_statistics_and_worst_places_are_folded(record):
    page = text(LogitsProbe().view(record))
    assert page.count("<details>") == page.count("</details>") == 3


def test_record_with_the_baseline_alone_can_be_shown(record):
    view = LogitsProbe().view(record.model_copy(update={"rows": record.rows[:1]}))
    assert text(view).startswith("35 short prompts")
    assert view.figures == []


def test_figures_are_svg(record):
    drawn = LogitsProbe().view(record).figures
    assert [svg.name for svg in drawn] == ["logits-kld-prose", "logits-position-prose"]
    for svg in drawn:
        assert ElementTree.fromstring(svg.text).tag.endswith("svg")


def test_greedy_texts_are_compared_by_ids_and_by_characters():
    assert TEXTS.first_difference == [None, 1]
    assert TEXTS.exact.value == 0.5
    assert TEXTS.similarity.value == pytest.approx((1 + 2 / 3) / 2)  # "4 5" and "4 6"
    assert TEXTS.tokens == 3


def test_text_that_ends_early_differs_where_it_ends():
    assert first_difference((1, 2), (1, 2, 3)) == 2
    assert first_difference((), ()) is None
