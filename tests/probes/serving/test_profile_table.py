"""Where the time goes, as the report shows it."""

from pathlib import Path

import pytest

from sage_eval.probes.serving import record
from sage_eval.probes.serving.profile_table import profiles
from sage_eval.probes.serving.record import Cell, Kernel, Profile, Times
from sage_eval.probes.serving.table import render

EXACT, SAGE = "sage_attn:variant=exact", "sage_attn"


def profiled(arm, attention, *, kind="prefill", size=256, **more):
    seconds = {"attention": attention, "products": 5e-3, "other": 2e-3, "idle": 8e-3 - attention}
    values = {"seconds": seconds, "by": "launch", "guessed": 0.0, "kernels": []} | more
    return Profile(arm=arm, cell=Cell(kind=kind, size=size), times=Times(**values))


@pytest.fixture
def stored():
    return record.read(Path(__file__).parent / "stored" / "schema_1.json")


def test_a_record_of_before_there_were_profiles_has_no_such_section(stored):
    assert profiles(stored) == ""
    assert "Where the time goes" not in render(stored)
    assert "no run having been profiled" in render(stored)


def test_shares_milliseconds_and_the_attentions_own_ratio_are_shown(stored):
    stored.profiles = [profiled(SAGE, 3e-3), profiled(EXACT, 6e-3), profiled(SAGE, 1e-3, kind="decode", size=2)]
    for row in stored.summary["rows"]:
        row["seconds"]["p50"] = {EXACT: 15e-3, SAGE: 8e-3}[row["arm"]]  # of 13 and of 10 or 8 ms busy
    stored.summary["rows"] = [row for row in stored.summary["rows"] if row["kind"] != "decode"]
    text = render(stored)
    rows = [line for line in text.splitlines() if line.startswith(("| prefill,", "| decode,"))]
    assert rows == [
        f"| prefill, 256 | `{EXACT}` | 40% | 33% | 13% | 13% | 13% | 6.000 | – | 15.00 |",
        f"| prefill, 256 | `{SAGE}` | 20% | 33% | 13% | 33% | 0% | 3.000 | 2.00 | 15.00 |",
        f"| decode, 2 | `{SAGE}` | 7% | 33% | 13% | 47% | – | 1.000 | – | 15.00 |",
    ]
    assert "There is no GPU here" in text
    assert "replayed by a CUDA graph" not in text
    assert "*Where the time goes* has what a profiler saw" in text


def test_names_that_decided_and_guesses_are_told_of(stored):
    stored.profiles = [
        profiled(EXACT, 1e-3, kind="decode", size=2, by="name"),
        profiled(SAGE, 1e-3, kind="decode", size=2, by="name", guessed=0.125),
    ]
    text = profiles(stored)
    assert f"without graphs (`{EXACT}` in decode, `{SAGE}` in decode)" in text
    assert text.endswith(f"guessed by parts of them: `{SAGE}` in decode/2 12%.")


def test_the_kernels_of_the_longest_prompt_are_shown(stored):
    name = "void cutlass::device_kernel<" + "x" * 100 + ">"
    kernels = [Kernel(name=name, seconds=3e-3, calls=2), Kernel(name="_code_`kernel", seconds=1e-3, calls=2)]
    stored.profiles = [
        profiled(EXACT, 4e-3, size=64, kernels=[Kernel(name="short", seconds=4e-3, calls=2)]),
        profiled(EXACT, 4e-3, size=256, kernels=kernels),
    ]
    [line] = [line for line in profiles(stored).splitlines() if line.startswith("- ")]
    assert line.startswith(f"- `{EXACT}`, 256 tokens: `cutlass::device_kernel<xxx")
    assert line.endswith("xxx…` 75%, `_code_'kernel` 25%")


def test_an_arm_that_could_not_be_profiled_is_told_of(stored):
    stored.profiles = [Profile(arm=SAGE, cell=Cell(kind="prefill", size=64), error="the profiler saw no kernel")]
    assert profiles(stored).endswith(f"`{SAGE}` in prefill/64: not profiled, the profiler saw no kernel")
