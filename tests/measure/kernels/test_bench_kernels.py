"""The kernel benchmark's arithmetic, checks and record; its timing needs a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sage_eval.cli import main
from sage_eval.errors import DataError, UsageError
from sage_eval.measure.kernels.cases import CASES, KERNELS, Case
from sage_eval.measure.kernels.columns import COLUMNS
from sage_eval.measure.kernels.instrument import CARD, Kernels, Timing
from sage_eval.measure.kernels.run import check, run, why
from sage_eval.render.sections import body
from sage_eval.report.measurements import found, text
from sage_eval.store import record as records
from sage_eval.store.record import ArmEntry

PUBLISHED = Path(__file__).parents[3] / "results" / "kernels-h200-first" / "bench.jsonl"
RATES = {"bf16": 800.0, "int8": 1600.0, "fp8": 1600.0, "exp2": 1e9}


@pytest.mark.parametrize("case", [Case(7, 0, 2, 64), Case(5, 11, 1, 128)])
def test_flops_are_those_of_the_pairs_that_the_mask_leaves(case):
    pairs = sum(case.prefix + i + 1 for i in range(case.new)) * case.batch * 32
    assert case.flops == pairs * 2 * (2 * case.dim)


def test_cases_are_known_by_their_names_and_kernels_by_theirs():
    assert [Case.named(case.name) for case in CASES] == CASES
    assert len({case.name for case in CASES}) == len(CASES)
    assert tuple(COLUMNS) == KERNELS
    with pytest.raises(ValueError, match="no case"):
        Case.named("d128 4x")


def test_limit_is_the_longer_of_matrix_work_and_exp2():
    case = Case(1024, 0, 1, 64)
    matrix = case.flops / 2 / 800e9 + case.flops / 2 / 1600e9
    assert case.limit_ms(RATES, "bf16") == pytest.approx(matrix)
    assert case.limit_ms(RATES | {"exp2": 1.0}, "bf16") == pytest.approx(case.flops / (4 * 64) / 1e9)


def test_what_is_done_or_beyond_the_budget_is_not_timed():
    case = Case(512, 0, 32, 128)
    assert list(run([case], ["cudnn"], done={(case.name, "cudnn")})) == []
    assert list(run([case], ["cudnn"], budget=-1.0)) == []


@pytest.mark.parametrize("shape", [(600, 32, 8), (1, 32, 600, 8), (1, 600, 32, 8)])
def test_result_that_is_not_attention_is_refused_in_every_layout(shape):
    torch.manual_seed(0)
    want, rows = torch.randn(16, 32, 8), slice(300, 316)
    result = torch.zeros(shape)
    flat = result if len(shape) == 3 else (result[0].transpose(0, 1) if shape[1] == 32 else result[0])
    flat[rows] = want
    check(result, want, Case(600, 0, 1, 8), rows)
    flat[rows] = want.roll(1, 0)
    with pytest.raises(RuntimeError, match="not timed"):
        check(result, want, Case(600, 0, 1, 8), rows)


def test_result_of_nan_is_refused():
    with pytest.raises(RuntimeError, match="not timed"):
        check(torch.full((600, 32, 8), torch.nan), torch.ones(16, 32, 8), Case(600, 0, 1, 8), slice(0, 16))


def test_view_has_the_best_limits_and_says_what_did_not_run():
    case = Case(4096, 0, 4, 128)
    half = case.flops / 2 / 1e9
    twice = 2 * (half / 1600 + half / 800)
    record = records.read(Timing, PUBLISHED, "kernels")
    record.rows = [
        *(Timing(arm=CARD, cell=name, block=0, rate=rate) for name, rate in RATES.items()),
        Timing(arm=CARD, cell="bf16", block=1, rate=790.0),
        Timing(arm="int8-fp16", cell=case.name, block=0, ms=(1.0, twice, 2.0)),
        Timing(arm="quantise", cell=case.name, block=0, ms=(0.07, 0.08, 0.09)),
        Timing(arm="fa3", cell=case.name, block=0, absent="ModuleNotFoundError: sgl_kernel"),
    ]
    shown = text(Kernels().view(record))
    assert "Measured limits: bf16 800, " in shown
    assert f"| d128 4x4096 | {case.flops / twice / 1e9:.0f} | 80 µs | 50% |" in shown
    assert shown.endswith("- fa3 is not available: ModuleNotFoundError: sgl_kernel\n")


def test_published_lines_are_read_and_shown_with_their_numbers(tmp_path):
    record = records.read(Timing, PUBLISHED, "kernels")
    assert record.provenance.devices == [{"name": "NVIDIA H200"}]
    (tmp_path / "bench.jsonl").write_bytes(PUBLISHED.read_bytes())
    [part] = found(tmp_path)
    shown = body(part.parts)
    assert "| d128 4x4096 | 502 | 410 | 183 µs | 347 | 189 | 609 | 531 | 602 | 541 | 307 | 49% / 28% |" in shown
    assert "| d64 1x131072 | 400 | 311 | 254 µs | 428 | 142 | 509 | 478 | – | 464 | 316 | 39% / 29% |" in shown


def test_line_that_was_cut_short_is_left_out(tmp_path):
    path = tmp_path / "bench.jsonl"
    path.write_text(PUBLISHED.read_text()[:-20])
    whole = records.read(Timing, PUBLISHED, "kernels")
    assert records.read(Timing, path, "kernels").rows == whole.rows[:-1]


def test_record_may_be_in_a_file_named_as_lines_are(tmp_path):
    record = records.read(Timing, PUBLISHED, "kernels")
    records.write(tmp_path / "bench.jsonl", record)
    assert records.read(Timing, tmp_path / "bench.jsonl", "kernels") == record


def test_other_file_is_refused(tmp_path):
    (tmp_path / "notes.jsonl").write_text("buy milk\nand bread\n")
    with pytest.raises(DataError, match="no record"):
        records.read(Timing, tmp_path / "notes.jsonl", "kernels")


def test_record_of_other_kernels_is_refused_by_the_commands_own_flag(tmp_path):
    record = records.read(Timing, PUBLISHED, "kernels")
    record.arms["int8-fp16"] = ArmEntry(role="candidate", arguments={})
    path = tmp_path / "old.json"
    records.write(path, record)
    made = record.provenance.model_copy(update={"code": "b" * 64})
    with pytest.raises(UsageError, match=r"another code: choose --out$"):
        records.resume(Timing, path, record.model_copy(update={"provenance": made}), flag="--out")


@pytest.mark.parametrize(
    ("given", "message"),
    [(["--columns", "fa4"], "known: int8-fp16"), (["--cases", "d128 4x4097"], "known: d128"), ([], "a CUDA GPU")],
)
def test_what_cannot_be_timed_is_refused(tmp_path, monkeypatch, capsys, given, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "kernels", "--out", str(tmp_path / "bench.json"), *given]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "bench.json").exists()


def test_timing_needs_torch_and_triton_alone():
    absent = "import sys; sys.modules.update(dict.fromkeys(['sglang', 'pydantic', 'typer', 'psutil', 'rich']))"
    code = f"{absent}; from sage_eval.measure.kernels.run import run; list(run([]))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_command_needs_no_sglang(tmp_path):
    code = (
        "import sys; sys.modules['sglang'] = None; from sage_eval.cli import main; "
        f"sys.exit(main(['bench', 'kernels', '--columns', 'fa4', '--out', '{tmp_path}/x.json']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert "known: int8-fp16" in done.stderr


def test_the_reason_of_a_kernel_that_did_not_run_names_no_folder():
    error = RuntimeError("build failed in `/home/me/.cache/lib/0.6/ops/prefill':\n see https://a.b/c/d, half 1/2")
    assert why(error) == "RuntimeError: build failed in `prefill': see https://a.b/c/d, half 1/2"
