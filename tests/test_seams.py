"""What we hold on to in SGLang: each is there in the version installed, and an error that names it where it is not."""

import inspect
import pkgutil
import subprocess
import sys

import pytest
import sglang

from sage_eval import seams
from sage_eval.errors import PrerequisiteError
from sage_eval.seams import SEAMS, Seam

NAMED = rf"SGLang {sglang.__version__} .*sage-eval knows SGLang"


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.target.rpartition(".")[2])
def test_it_is_in_this_sglang(seam):
    assert seam.form() in range(len(seam.forms))


def owner(seam):
    """The module or class that holds the seam, and its name there."""
    holder, _, name = seam.target.rpartition(".")
    return pkgutil.resolve_name(holder), name


@pytest.mark.parametrize("seam", SEAMS, ids=lambda seam: seam.target.rpartition(".")[2])
def test_its_absence_is_an_error_with_the_version(seam, monkeypatch):
    monkeypatch.delattr(*owner(seam))
    with pytest.raises(PrerequisiteError, match=NAMED):
        seams.check([seam])


@pytest.mark.parametrize(
    "seam", [seam for seam in SEAMS if seam.forms != ("",)], ids=lambda seam: seam.target.rpartition(".")[2]
)
def test_other_parameters_are_an_error_with_the_version(seam, monkeypatch):
    monkeypatch.setattr(*owner(seam), lambda something, quite, different: None)
    with pytest.raises(PrerequisiteError, match=NAMED):
        seams.check([seam])


def test_a_new_parameter_is_refused_where_it_may_change_what_the_others_mean(monkeypatch):
    def later(
        logprobs, token_ids_logprobs, pruned_lens, token_ids_logprobs_val, token_ids_logprobs_idx,
        split_pruned_len=0, as_difference=False,
    ):  # fmt: skip
        """SGLang's function with one parameter more."""

    monkeypatch.setattr(*owner(seams.COLUMNS), later)
    with pytest.raises(PrerequisiteError, match="as_difference"):
        seams.check([seams.COLUMNS])


def test_every_hook_is_applied_by_sglang():
    code = "from sglang.srt.plugins import load_plugins; load_plugins(); from sage_eval import seams; seams.check()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]


@pytest.mark.parametrize("target", seams.hooked(), ids=lambda target: target.rpartition(".")[2])
def test_a_hook_that_sglang_did_not_apply_is_an_error(target, monkeypatch):
    monkeypatch.setattr(*owner(Seam(target)), inspect.unwrap(pkgutil.resolve_name(target)))
    monkeypatch.setattr(seams, "hooked", lambda: [target])
    with pytest.raises(PrerequisiteError, match=f"did not apply our hook on {target}"):
        seams.check([])


@pytest.mark.parametrize(
    ("option", "value"), [("score_mod", len), ("lse_extend", object()), ("skip_prefix", True), ("brand_new", 0)]
)
def test_a_call_that_asks_for_what_our_kernel_ignores_is_an_error(option, value):
    from sage_eval.attention.backend import _EXTEND

    fine = {"logit_cap": 0.0, "sinks": None, "page_size": 16, "extend_seq_lens_cpu": [3]}
    seams.neutral(fine, _EXTEND, "prefill")
    with pytest.raises(PrerequisiteError, match=f"prefill with {option}"):
        seams.neutral(fine | {option: value}, _EXTEND, "prefill")


def test_the_arguments_of_the_engine_are_known():
    assert {"model_path", "attention_backend", "sleep_on_idle"} <= set(seams.server_arguments())
