from sage_eval.render.sections import Folded, Report, Section
from sage_eval.render.table import Table

PARTS = ["A *word*.", Table("t", ("a", "b"), [("x", "1")]), Folded("More", ["below"])]


def test_a_section_is_the_same_parts_in_markdown_and_html():
    made = Report("Title", [Section("s", "One", PARTS)])
    assert made.markdown() == (
        "# Title\n\n## One\n\nA *word*.\n\n**t**\n\n| a | b |\n| --- | ---: |\n| x | 1 |\n\n"
        "<details><summary>More</summary>\n\nbelow\n\n</details>\n"
    )
    html = made.sections[0].html
    assert html.startswith("<p>A <em>word</em>.</p>")
    assert html.endswith("<details><summary>More</summary>\n<p>below</p>\n</details>\n")


def test_markdown_leaves_out_what_is_for_the_page_alone():
    made = Report("T", [Section("a", "A", ["x"], page_only=True), Section("b", "B", ["y"])])
    assert "## A" not in made.markdown()
    assert '<section id="a">' in made.page().text


def test_html_in_a_text_stays_words():
    part = Section("a", "Title", ["### Below\n\n<i>x</i>\n", Folded("<script>1</script>", ["x"])])
    assert part.html == (
        "<h3>Below</h3>\n<p>&lt;i&gt;x&lt;/i&gt;</p>\n"
        "<details><summary>&lt;script&gt;1&lt;/script&gt;</summary>\n<p>x</p>\n</details>\n"
    )
