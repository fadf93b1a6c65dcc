"""The record, its text, its report section and its figures, from synthetic distances."""

from xml.etree import ElementTree

import numpy as np
import pytest

from sage_eval.errors import DataError
from sage_eval.probes.logits import table
from sage_eval.probes.logits.chunks import STEP
from sage_eval.probes.logits.figures import figures
from sage_eval.probes.logits.generated import compare, first_difference
from sage_eval.probes.logits.plan import choose
from sage_eval.probes.logits.record import LOGITS, ArmLogits, LogitsRecord, read
from sage_eval.probes.logits.reduce import Distances
from sage_eval.probes.logits.summary import classes, summarise
from sage_eval.runs.files import write_json

RNG = np.random.default_rng(0)
PROMPTS = choose([range(5000)] * 35, prompts=35, positions=1050, longest=4000, seed=0)


def decode(ids):
    return " ".join(map(str, ids))


def synthetic(prompt, scale):
    n = len(prompt.positions)
    noise = scale * RNG.normal(size=n)
    tops = np.zeros((2, n), np.int64)
    return Distances(noise**2, np.full(n, -2.0), -2.0 + noise, tops, np.abs(noise), np.full(n, 1e-6))


def arm(name, scale, role):
    parts = [synthetic(prompt, scale) for prompt in PROMPTS]
    found = summarise(PROMPTS, parts, decode, texts="prose", arm=name, role=role)
    return parts, ArmLogits(name=name, arguments={}, backend="b", distances=found, generated=TEXTS)


TEXTS = compare([(1, 2, 3), (4, 5)], [(1, 2, 3), (4, 6)], decode)
PARTS, CANDIDATE = arm("sage_attn", 0.1, "candidate")
RECORD = LogitsRecord(
    created="2026-01-01T00:00:00+00:00", command="sage-eval probe logits", model={"name": "m"}, source="0" * 64, seed=0,
    settings={}, texts="prose", vocabulary=100, resolution=STEP, classes=classes(PROMPTS), versions={}, host={},
    devices=[],
    arms=[
        ArmLogits(name="triton", arguments={}, backend="triton"),
        CANDIDATE,
        arm("triton+triton", 0.0, "floor")[1],
        ArmLogits(name="fa3", arguments={}, error="SGLang's scheduler died: no kernel"),
    ],
)  # fmt: skip


def test_the_summary_is_of_all_positions_and_its_parts_make_up_the_whole():
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


def test_a_record_comes_back_from_its_file(tmp_path):
    write_json(tmp_path / LOGITS, RECORD.model_dump(mode="json"))
    assert read(tmp_path / LOGITS) == RECORD


def test_a_record_of_another_version_is_refused(tmp_path):
    write_json(tmp_path / LOGITS, {"schema_version": 2})
    with pytest.raises(DataError, match="schema_version 2"):
        read(tmp_path / LOGITS)


def test_the_text_has_the_arms_the_floor_and_what_failed():
    words = table.text(RECORD)
    assert words.count("| sage_attn | ") == 4 + 1  # all and three classes; the greedy texts
    assert words.count("| triton+triton (floor) | ") == 4
    assert "**fa3 failed:** SGLang's scheduler died: no kernel" in words
    assert "| sage_attn | 1/2 | " in words
    assert "<details>" not in words


def test_the_section_is_markdown_with_a_heading_and_whole_tables():
    section = table.markdown(RECORD)
    assert section.startswith("## ")
    assert section.count("<details>") == section.count("</details>") == 3
    width = None
    for line in section.splitlines():
        if not line.startswith("|"):
            width = None
            continue
        columns = line.replace("\\|", "").count("|")
        assert columns == (width or columns), line
        width = columns


def test_a_record_with_the_baseline_alone_can_be_shown():
    early = RECORD.model_copy(update={"arms": RECORD.arms[:1]})
    assert table.markdown(early).startswith("## ")
    assert figures(early) == {}


def test_the_figures_are_svg():
    drawn = figures(RECORD)
    assert set(drawn) == {"logits-kld-prose", "logits-position-prose"}
    for svg in drawn.values():
        assert ElementTree.fromstring(svg).tag.endswith("svg")


def test_greedy_texts_are_compared_by_ids_and_by_characters():
    assert TEXTS.first_difference == [None, 1]
    assert TEXTS.exact.value == 0.5
    assert TEXTS.similarity.value == pytest.approx((1 + 2 / 3) / 2)  # "4 5" and "4 6"
    assert TEXTS.tokens == 3


def test_a_text_that_ends_early_differs_where_it_ends():
    assert first_difference((1, 2), (1, 2, 3)) == 2
    assert first_difference((), ()) is None
