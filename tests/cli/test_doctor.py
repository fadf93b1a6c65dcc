"""`sage-eval doctor`: what runs here, and what a benchmark recommends."""

import json

from sage_eval.store.source import source_hash
from tests.cli.values import ROOT, one_line


def test_doctor_says_what_runs_and_why_not(call):
    code, out, _ = call("doctor", "--json")
    assert code == 0
    found = json.loads(out)
    backends = {backend["name"]: backend for backend in found["backends"]}
    assert backends["torch_native"]["runs"]
    assert all(backend["why"] for backend in backends.values() if not backend["runs"])
    code, text, _ = call("doctor")
    assert code == 0
    assert all(name in text for name in backends)


def test_doctor_recommends_what_a_benchmark_measured(call, tmp_path):
    record = json.loads((ROOT / "results" / "kernels-h200" / "kernels.json").read_text())
    record["provenance"]["code"] = source_hash()
    measured = tmp_path / "kernels.json"
    measured.write_text(json.dumps(record))
    code, out, _ = call("doctor", "--bench", measured)
    assert code == 0
    assert "recommended for NVIDIA H200, as measured there:\n  head_dim 128: sage_attn with" in out
    assert "head_dim 128: sage_attn with variant=int8-fp8,min_tokens=2048; speed against fa3" in out
    first = ROOT / "results" / "kernels-h200-first" / "bench.jsonl"
    assert "with other kernels than these" in call("doctor", "--bench", first)[1]
    code, _, err = call("doctor", "--bench", tmp_path / "none.jsonl")
    assert code == 2
    assert "CUDA GPU" in one_line(err)
