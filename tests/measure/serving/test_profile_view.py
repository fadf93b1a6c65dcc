"""Where the time goes, as the report shows it."""

import pytest

from sage_eval.measure.serving.profile_view import profiles
from sage_eval.measure.serving.summary import Kernel, Profile, Served
from sage_eval.render.table import Table, markdown
from sage_eval.store import record as records
from tests.measure.serving.test_serving_view import STORED, render

EXACT, SAGE = "sage_attn:variant=exact", "sage_attn"


@pytest.fixture
def stored():
    return records.read(Served, STORED, "serving")


def profiled(record, arm, attention, cell="prefill/256", **more):
    seconds = {"attention": attention, "products": 5e-3, "other": 2e-3, "idle": 8e-3 - attention}
    [row] = [row for row in record.rows if (row.arm, row.cell) == (arm, cell)]
    row.profile = Profile(**{"seconds": seconds} | more)
    return row


def section(record):
    return "\n\n".join(markdown(part) if isinstance(part, Table) else part for part in profiles(record, []))


def test_record_without_profiles_has_no_such_section(stored):
    assert section(stored) == ""
    assert "Where the time goes" not in render(stored)


def test_shares_milliseconds_and_the_attentions_own_ratio_are_shown(stored):
    profiled(stored, EXACT, 6e-3).seconds = [15e-3]  # 13 of 15 ms busy
    profiled(stored, SAGE, 3e-3).seconds = [8e-3]  # 10 of 8 ms
    profiled(stored, SAGE, 1e-3, "decode/2").seconds = []
    found = render(stored)
    assert [line for line in found.splitlines() if line.startswith(("| prefill,", "| decode,"))] == [
        f"| prefill, 256 | {EXACT} | 40% | 33% | 13% | 13% | 13% | 6.000 | – | 15.00 |",
        f"| prefill, 256 | {SAGE} | 20% | 33% | 13% | 33% | 0% | 3.000 | 2.00 | 15.00 |",
        f"| decode, 2 | {SAGE} | 7% | 33% | 13% | 47% | – | 1.000 | – | 15.00 |",
    ]
    assert "Without a GPU these are times" in found
    assert "A CUDA graph replays" not in found


def test_names_that_decided_and_guesses_are_reported(stored):
    profiled(stored, EXACT, 1e-3, "decode/2", by="name")
    profiled(stored, SAGE, 1e-3, "decode/2", by="name", guessed=0.125)
    found = section(stored)
    assert f"without graphs (`{EXACT}` in decode, `{SAGE}` in decode)" in found
    assert f"guessed: `{SAGE}` in decode/2 12%." in found


def test_kernels_of_the_longest_prompt_are_shown(stored):
    name = "void cutlass::device_kernel<" + "x" * 100 + ">"
    kernels = [Kernel(name=name, seconds=3e-3, calls=2), Kernel(name="_code_`kernel", seconds=1e-3, calls=2)]
    profiled(stored, EXACT, 4e-3, "prefill/64", kernels=[Kernel(name="short", seconds=4e-3, calls=2)])
    profiled(stored, EXACT, 4e-3, kernels=kernels)
    [line] = [line for line in section(stored).splitlines() if line.startswith(f"- `{EXACT}`")]
    assert line.startswith(f"- `{EXACT}`, 256 tokens: `cutlass::device_kernel<xxx")
    assert line.endswith("xxx…` 75%, `_code_'kernel` 25%")


def test_arm_that_could_not_be_profiled_is_reported(stored):
    profiled(stored, SAGE, 0.0, "prefill/64", seconds={}, error="the profiler saw no kernel")
    assert section(stored) == f"`{SAGE}` in prefill/64: not profiled, the profiler saw no kernel"
    profiled(stored, EXACT, 1e-3)
    assert f"- `{SAGE}` in prefill/64: not profiled, the profiler saw no kernel" in section(stored)
