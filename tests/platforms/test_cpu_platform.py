"""The platform plugin: there without an accelerator, silent with one."""

import os

import pytest
import torch

from sage_eval.plugins import activate_cpu_platform


@pytest.mark.parametrize("device", ["cuda", "xpu"])
def test_it_never_activates_beside_an_accelerator(device, monkeypatch):
    monkeypatch.setattr(getattr(torch, device), "is_available", lambda: True)
    assert activate_cpu_platform() is None


def test_it_gives_sglang_a_platform_on_a_plain_host(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    from sglang.srt.platforms import _load_platform_class

    platform = _load_platform_class(activate_cpu_platform())()
    assert platform.device_type == "cpu"
    assert platform.get_default_attention_backend() == "torch_native"


def test_sglang_finds_the_device_without_a_flag():
    from sglang.srt.utils.common import get_device

    assert get_device().split(":")[0] == "cpu"


def test_server_arguments_that_were_given_win_over_its_defaults():
    from types import SimpleNamespace

    from sage_eval.platforms.cpu import SageCpuPlatform

    given = SimpleNamespace(mem_fraction_static=0.2, max_total_tokens=None, tp_size=1, dp_size=1, pp_size=1)
    SageCpuPlatform().apply_server_args_defaults(given)
    assert given.mem_fraction_static == 0.2
    assert given.max_total_tokens > 8192


@pytest.mark.parametrize(("ranks", "given", "found"), [(1, None, None), (4, None, 4), (4, "0|1", 2)])
def test_each_of_several_ranks_has_a_core_unless_the_user_chose_them(ranks, given, found, monkeypatch):
    from types import SimpleNamespace

    from sage_eval.platforms.cpu import CORES, SageCpuPlatform

    monkeypatch.setenv(CORES, given or "")
    if given is None:
        monkeypatch.delenv(CORES)
    arguments = SimpleNamespace(mem_fraction_static=0.2, max_total_tokens=1, tp_size=1, dp_size=ranks, pp_size=1)
    SageCpuPlatform().apply_server_args_defaults(arguments)
    places = os.environ.get(CORES)
    assert (places and min(4, len(places.split("|")))) == found
