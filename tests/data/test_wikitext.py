import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sage_eval.data import local_dataset
from sage_eval.data.wikitext import documents, load_raw, raw_from_rows, read_raw, rows
from tests.data.folders import ARTICLES, REAL, needs_real

LINES = st.sampled_from(
    [" ", " = Title = ", " = = Part = = ", " = = = Piece = = = ", " Some words , here . ", " a = b "]
)


@given(st.lists(LINES, max_size=30))
def test_the_raw_file_is_rebuilt_from_its_rows(lines: list[str]) -> None:
    raw = "".join(f"{line}\n" for line in lines)
    assert raw_from_rows(rows(raw)) == raw


@given(st.lists(LINES, max_size=30))
def test_documents_begin_at_titles_and_lose_nothing_but_blank_openings(lines: list[str]) -> None:
    raw = "".join(f"{line}\n" for line in lines)
    pages = documents(raw)
    assert "\n".join(pages).strip() == raw.strip()
    assert all(page.startswith(" = Title = ") for page in pages[1:])
    assert sum(page.count(" = Title = ") for page in pages) == lines.count(" = Title = ")


def test_section_headings_do_not_begin_a_document() -> None:
    assert len(documents(" = One = \n = = Two = = \n = = = Three = = = \n = Four = \n")) == 2


def test_small_folder_gives_documents_and_a_train_split_that_lm_eval_can_draw_from(small_data: Path) -> None:
    data = local_dataset("EleutherAI/wikitext_document_level", "wikitext-2-raw-v1")
    assert len(data["test"]) == ARTICLES
    assert len(data["train"]) > 0
    assert load_raw("test") == (small_data / "wikitext2" / "wiki.test.raw").read_text()


def test_other_hub_data_sets_are_left_to_the_hub(small_data: Path) -> None:
    assert local_dataset("EleutherAI/wikitext_document_level", "wikitext-103-raw-v1") is None
    assert local_dataset("cais/mmlu", "all") is None
    assert local_dataset(None, None) is None


@needs_real
def test_the_test_set_has_62_documents_and_the_known_words() -> None:
    assert REAL is not None
    pages = documents(read_raw(REAL, "test"))
    assert len(pages) == 62
    assert pages[0].startswith(" = Robert Boulter = \n \n Robert Boulter is an English film")
    assert sum(len(re.findall(r"\S+", page)) for page in pages) == 241_211
    assert len(documents(read_raw(REAL, "validation"))) == 60
    assert len(rows(read_raw(REAL, "test"))) == 4358
