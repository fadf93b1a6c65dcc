import pytest
from rich.console import Console

from sage_eval.render import table as tables
from sage_eval.render.table import Table

TABLE = Table("Title", ("task", "extra", "value"), [("a|b", "x", "**1** `c`")], ["a *note*"], names=1, wide=("extra",))


def test_a_bar_in_a_cell_breaks_no_row():
    assert tables.markdown(TABLE).splitlines() == [
        "**Title**", "", "| task | extra | value |", "| --- | ---: | ---: |", "| a\\|b | x | **1** `c` |", "",
        "- a *note*",
    ]  # fmt: skip


def test_an_escaped_bar_is_not_escaped_again():
    assert "| a\\|b |" in tables.markdown(Table("", ("x",), [("a\\|b",)]))


def test_html_has_a_caption_scopes_and_marks():
    html = tables.html(TABLE)
    assert "<caption><span>Title</span></caption>" in html
    assert '<th scope="col" class="n">value</th>' in html
    assert '<th scope="row" data-label="task">a|b</th>' in html
    assert '<td class="n" data-label="value"><strong>1</strong> <code>c</code></td>' in html
    assert "<li>a <em>note</em></li>" in html


@pytest.mark.parametrize("cell", ["<script>1</script>", '" onload="x', "[go](http://a)", "![x](http://a)"])
def test_what_a_cell_holds_stays_words(cell):
    html = tables.html(Table(cell, (cell, cell), [(cell, cell)], [cell]))
    assert "<script" not in html
    assert 'onload="x' not in html
    assert "<a " not in html and "<img" not in html


def test_negative_numbers_have_a_minus_sign_and_names_and_code_a_hyphen():
    text = tables.markdown(Table("", ("a", "b"), [("sage-1", "-0.5 [-1, +2] `--x -3` 2e-05 a-1")], ["at -3"]))
    assert "| sage-1 | −0.5 [−1, +2] `--x -3` 2e−05 a-1 |" in text
    assert "- at −3" in text


@pytest.mark.parametrize(("wide", "stacks"), [("x" * 60, True), ("x" * 10, False)])
def test_a_table_that_a_phone_has_no_room_for_puts_its_cells_below_each_other(wide, stacks):
    assert ('class="stacks"' in tables.html(Table("", ("a", "b"), [("x", wide)]))) == stacks


def test_an_interval_is_not_broken():
    assert "[+1,\N{NO-BREAK SPACE}+2]" in tables.html(Table("", ("a", "b"), [("x", "0 [+1, +2]")]))


def test_a_terminal_leaves_wide_columns_and_marks_out(capsys):
    tables.terminal(TABLE, Console(width=60))
    shown = capsys.readouterr().out
    assert "extra" not in shown
    assert "1 c" in shown
    assert "a *note*" in shown
