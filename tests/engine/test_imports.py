import subprocess
import sys


def loaded(script: str, *rooms: str) -> list[str]:
    """Modules of `rooms` that are there once `script` has run in a process of its own."""
    told = f"{script}; import sys; print(*(name for name in sys.modules if name.startswith({rooms!r})))"
    return subprocess.run([sys.executable, "-c", told], check=True, capture_output=True, text=True).stdout.split()


def test_naming_the_room_imports_nothing_heavy():
    assert loaded("import sage_eval.engine", "torch", "sglang", "lm_eval") == []


def test_what_runs_inside_sglangs_processes_knows_nothing_of_the_probes():
    inside = "from sage_eval import plugins; from sage_eval.engine import scheduler, scheduler_memory"
    assert "sage_eval.engine.scheduler_profile" in loaded(inside, "sage_eval.engine")
    assert loaded(inside, "sage_eval.measure", "sage_eval.compare", "sage_eval.report", "torch", "sglang") == []
