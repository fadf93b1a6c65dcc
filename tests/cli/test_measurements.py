"""`sage-eval bench`: what cannot be measured is refused before an engine starts."""

import pytest

from tests.cli.values import ROOT, one_line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a model or --shape"),
        (["MODEL", "--shape", "llama-3.1-8b"], "a model or --shape"),
        (["--shape", "llama-9b"], "known: llama-3.1-8b"),
        (["reference_model", "--arms", "triton:variant=exact"], "setting of sage_attn"),
        (["reference_model", "--lengths", "1k"], "whole numbers"),
        (["reference_model", "--model-args", "dtype"], "name=value"),
    ],
)
def test_a_bench_that_cannot_be_is_refused_before_an_engine_starts(call, tmp_path, arguments, message):
    code, out, err = call("bench", "serving", *arguments, "--output", tmp_path / "bench")
    assert (code, out) == (2, "")
    assert message in one_line(err)
    assert not (tmp_path / "bench" / "logs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a model or --shape"),
        (["--shape", "llama-9b"], "known: llama-3.1-8b"),
        (["reference_model", "--arms", "triton:variant=exact"], "setting of sage_attn"),
        (["reference_model", "--arms", "fa3", "--baseline", "triton"], "none of the arms"),
        (["reference_model", "--rates", "1,fast"], "--rates '1,fast': write numbers"),
        (["reference_model", "--rates", "0,inf"], "over 0"),
        (["reference_model", "--model-args", "dtype"], "name=value"),
    ],
)
def test_a_rate_curve_that_cannot_be_is_refused_before_a_server_starts(call, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(ROOT)
    code, out, err = call("bench", "rate", *arguments, "--output", tmp_path / "rate")
    assert (code, out) == (2, "")
    assert message in one_line(err)
    assert not (tmp_path / "rate" / "logs").exists()
