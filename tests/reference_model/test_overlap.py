"""Test data stays out: by 13-gram overlap and by file hash."""

from reference_model.recipe.overlap import Exclusion, N

WORDS = [f"word{number}" for number in range(60)]
TEST = " ".join(WORDS)


def planted(count: int) -> str:
    """Three paragraphs, the middle one with `count` words of the test text, its case and punctuation changed."""
    return f"The first paragraph.\nIt said: “{', '.join(WORDS[7 : 7 + count]).upper()}!” and no more.\nThe last one.\n"


def test_a_paragraph_that_shares_thirteen_words_goes_and_the_others_stay():
    exclusion = Exclusion({"test": [TEST]})
    assert exclusion.clean([planted(N)]) == ["The first paragraph.\nThe last one.\n"]
    found = exclusion.report.tests["test"]
    assert (found.grams_in_test, found.windows, found.paragraphs, found.documents) == (60 - N + 1, 1, 1, 1)
    assert exclusion.report.words_removed == 2 + N + 3


def test_twelve_words_are_no_overlap():
    exclusion = Exclusion({"test": [TEST]})
    assert exclusion.clean([planted(N - 1)]) == [planted(N - 1)]
    assert exclusion.report.paragraphs_removed == 0


def test_a_run_over_the_end_of_a_paragraph_takes_both():
    text = f"Before.\n{' '.join(WORDS[:6])}\n{' '.join(WORDS[6:20])}\nAfter.\n"
    assert Exclusion({"test": [TEST]}).clean([text]) == ["Before.\nAfter.\n"]


def test_a_file_of_the_test_set_goes_however_short():
    exclusion = Exclusion({"test": ["a short file\n"], "other": [TEST]})
    assert exclusion.clean(["a short file\n", "another file\n"]) == ["another file\n"]
    assert exclusion.report.tests["test"].files_equal == 1
    assert exclusion.report.tests["other"].files_equal == 0


def test_nothing_to_keep_out_is_no_error():
    assert Exclusion({}).clean(["text\n"]) == ["text\n"]
