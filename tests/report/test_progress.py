"""What a run says on stderr where there is no terminal."""

import io

import pytest
from rich.console import Console

from sage_eval.report.progress import Progress, plain

BAR = "loglikelihood:  45%|####5     | 180/400 [03:00<03:40,  1.00it/s]"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (BAR, "loglikelihood 180/400, 03:40 left"),
        ("generate_until: 100%|##########| 20/20 [00:09<00:00,  2.1it/s]", "generate_until 20/20, 00:00 left"),
        ("generate_until:   0%|          | 0/20 [00:00<?, ?it/s]", "generate_until 0/20"),
        ("Loading 3 files", "Loading 3 files"),
    ],
)
def test_a_bar_is_told_in_words(line, words):
    assert plain(line) == words


@pytest.mark.parametrize(
    ("done", "of", "known"), [(1, 400, False), (19, 400, False), (20, 4000, True), (2, 40, True), (1, 40, False)]
)
@pytest.mark.parametrize("terminal", [True, False])
def test_a_time_left_is_shown_once_enough_is_done(done, of, known, terminal):
    """The first of many short requests ends with all that were begun beside it: a minute each, it would seem."""
    now, out = [0.0], io.StringIO()
    with Progress(Console(file=out, width=120, force_terminal=terminal), lambda: now[0]).arm("candidate", "x") as show:
        now[0] = 60.0
        show(f"loglikelihood:   1%|          | {done}/{of} [00:09<59:56,  9.01s/it]")
    assert f"{done}/{of}" in out.getvalue()
    assert ("59:56" in out.getvalue()) is known


def test_a_log_has_a_line_with_the_time_left_once_a_minute():
    now = [0.0]
    out = io.StringIO()
    with Progress(Console(file=out, width=40), lambda: now[0]).arm("candidate", "sage_attn") as show:
        for _ in range(1800):
            now[0] += 0.25
            show(BAR)
    first, *lines, last = out.getvalue().splitlines()
    assert first == "candidate (sage_attn): running"
    assert lines == [f"candidate (sage_attn) {n}:00: loglikelihood 180/400, 03:40 left" for n in range(1, 8)]
    assert last == "candidate (sage_attn): finished in 450 s"


@pytest.mark.parametrize("aside", ["  warnings.warn(", "x.py:3: UserWarning: only CUDA has it"])
def test_a_librarys_warning_hides_no_progress(aside):
    now = [0.0]
    out = io.StringIO()
    with Progress(Console(file=out), lambda: now[0]).arm("candidate", "x") as show:
        show(aside)
        now[0] = 60.0
        show(aside)
        show(BAR)
        now[0] = 120.0
        show(aside)
    _, *lines, _ = out.getvalue().splitlines()
    assert lines == ["candidate (x) 1:00: starting", "candidate (x) 2:00: loglikelihood 180/400, 03:40 left"]


def test_a_terminal_is_shown_no_such_lines():
    now = [0.0]
    out = io.StringIO()
    with Progress(Console(file=out, width=80, force_terminal=True), lambda: now[0]).arm("candidate", "x") as show:
        now[0] += 100
        show(BAR)
    assert "left" not in out.getvalue()
