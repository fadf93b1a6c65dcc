from sage_eval.render.sections import Folded, Report, Section, section
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


def test_a_text_that_folds_parts_of_itself_stays_folded_and_its_html_stays_words():
    part = section("a", "# Title\n\n## Below\n\n<details><summary>More</summary>\n\n<i>x</i>\n\n</details>\n\nend\n")
    assert part.title == "Title"
    assert part.html == (
        "<h3>Below</h3>\n<details><summary>More</summary>\n<p>&lt;i&gt;x&lt;/i&gt;</p>\n</details>\n<p>end</p>\n"
    )


def test_the_title_of_a_folded_part_is_words():
    part = section("a", "# T\n\n<details><summary><script>1</script></summary>\n\nx\n\n</details>\n")
    assert "<details><summary>&lt;script&gt;1&lt;/script&gt;</summary>" in part.html
