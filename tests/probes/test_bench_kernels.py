"""The kernel benchmark's arithmetic; its timing needs a GPU."""

import pytest
import torch

from sage_eval.errors import DataError, PrerequisiteError, UsageError
from sage_eval.probes.bench_columns import Case
from sage_eval.probes.bench_kernels import CASES, check, limit_ms, measure, read, run, table


@pytest.mark.parametrize("case", [Case(7, 0, 2, 64), Case(5, 11, 1, 128)])
def test_flops_are_those_of_the_pairs_that_the_mask_leaves(case):
    pairs = sum(case.prefix + i + 1 for i in range(case.new)) * case.batch * 32
    assert case.flops == pairs * 2 * (2 * case.dim)


def test_names_of_cases_are_unique():
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


def test_the_limit_is_the_longer_of_matrix_work_and_exp2():
    case = Case(1024, 0, 1, 64)
    rates = {"bf16": 800.0, "int8": 1600.0, "fp8": 1600.0, "exp2": 1e9}
    matrix = case.flops / 2 / 800e9 + case.flops / 2 / 1600e9
    assert limit_ms(case, rates, "bf16") == pytest.approx(matrix)
    assert limit_ms(case, rates | {"exp2": 1.0}, "bf16") == pytest.approx(case.flops / (4 * 64) / 1e9)


def test_what_was_measured_is_not_measured_again():
    case = Case(512, 0, 32, 128)
    assert list(run([case], ["cudnn"], {(case.name, "cudnn")}, rounds=1)) == []


def test_no_case_is_begun_after_the_budget():
    assert list(run([Case(512, 0, 32, 128)], ["cudnn"], set(), rounds=1, budget=-1.0)) == []


@pytest.mark.parametrize("shape", [(600, 32, 8), (1, 32, 600, 8), (1, 600, 32, 8)])
def test_a_result_that_is_not_attention_is_refused_in_every_layout(shape):
    torch.manual_seed(0)
    want, rows = torch.randn(16, 32, 8), slice(300, 316)
    result = torch.zeros(shape)
    flat = result if len(shape) == 3 else (result[0].transpose(0, 1) if shape[1] == 32 else result[0])
    flat[rows] = want
    check(result, want, Case(600, 0, 1, 8), rows)
    flat[rows] = want.roll(1, 0)
    with pytest.raises(RuntimeError, match="not timed"):
        check(result, want, Case(600, 0, 1, 8), rows)


def test_a_result_of_nan_is_refused():
    with pytest.raises(RuntimeError, match="not timed"):
        check(torch.full((600, 32, 8), torch.nan), torch.ones(16, 32, 8), Case(600, 0, 1, 8), slice(0, 16))


def test_the_table_has_limits_first_and_says_what_did_not_run():
    case = Case(4096, 0, 4, 128)
    cell = {"case": case.name, "tflops": 500.0, **case._asdict()}
    limits = {"bf16": 800.0, "int8": 1600.0, "fp8": 1600.0, "exp2": 1e9}
    half = case.flops / 2 / 1e9
    twice_the_limit = 2 * (half / 1600 + half / 800)
    text = table([
        {"limits": limits, "source": "abc"},
        cell | {"kernel": "int8-fp16", "ms": [1.0, twice_the_limit, 2.0]},
        {"case": case.name, "kernel": "quantise", "ms": [0.07, 0.08, 0.09], "tflops": None},
        {"case": case.name, "kernel": "fa3", "absent": "ModuleNotFoundError: sgl_kernel"},
    ])  # fmt: skip
    lines = text.splitlines()
    assert lines[0].startswith("Measured limits: bf16 800")
    assert "abc" in lines[1]
    assert "| d128 4x4096 | 500 | 80 µs | 50% |" in lines
    assert lines[-1] == "fa3 is not available: ModuleNotFoundError: sgl_kernel"


def test_measurements_of_other_kernels_are_not_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    out = tmp_path / "bench.jsonl"
    out.write_text('{"limits": {}, "source": "of yesterday"}\n')
    with pytest.raises(DataError, match="another --out"):
        measure(out)


def test_a_line_that_was_cut_short_is_measured_again(tmp_path):
    out = tmp_path / "bench.jsonl"
    out.write_text('{"case": "a", "kernel": "b"}\n{"case": "a", "ker')
    assert read(out) == [{"case": "a", "kernel": "b"}]
    assert out.read_text() == '{"case": "a", "kernel": "b"}\n'


def test_another_file_is_not_appended_to(tmp_path):
    out = tmp_path / "notes.txt"
    out.write_text("buy milk\nand bread\n")
    with pytest.raises(DataError, match="another --out"):
        read(out)


@pytest.mark.parametrize("names", [{"columns": ["fa4"]}, {"cases": ["d128 4x4097"]}])
def test_an_unknown_name_is_refused_and_not_left_out(names, tmp_path):
    with pytest.raises(UsageError, match="known:"):
        measure(tmp_path / "bench.jsonl", **names)


def test_without_a_gpu_there_is_nothing_to_time(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PrerequisiteError, match="GPU"):
        measure(tmp_path / "bench.jsonl")
    assert not (tmp_path / "bench.jsonl").exists()
