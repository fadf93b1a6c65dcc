from html import unescape

import pytest

from sage_eval.render import text

HOSTILE = "<b> & **x** `y` [z](http://a) | _u_ \\ # 1. ~~s~~ $m$"


def test_an_escaped_text_is_shown_as_it_is():
    assert unescape(str(text.inline(text.escape(HOSTILE)))) == HOSTILE


@pytest.mark.parametrize("text_", ["1. one", "- one", "# one", "+ one", "a\n- b\n2) c"])
def test_an_escaped_line_is_neither_list_nor_heading(text_):
    html = str(text.html(text.escape(text_)))
    assert unescape(html) == f"<p>{text_}</p>\n"


def test_only_a_link_to_a_file_beside_the_page_is_one():
    assert '<a href="run/report.md">' in text.inline("[run](run/report.md)")
    for other in ("http://a/b", "//a/b", "javascript:x/y", "../up/report.md", "/etc/passwd", "data:a/b"):
        assert "<a" not in text.inline(f"[run]({other})"), other


@pytest.mark.parametrize("inside", ["plain", "```\nfence\n```", "````"])
def test_a_block_of_code_ends_where_it_should(inside):
    html = str(text.html(text.code(inside, "sh") + "\n\nafter"))
    assert html == f'<pre><code class="language-sh">{inside}\n</code></pre>\n<p>after</p>\n'


def test_a_line_for_a_terminal_has_no_marks():
    assert text.plain("**a** `b` \\*c\\*") == "a b *c*"
