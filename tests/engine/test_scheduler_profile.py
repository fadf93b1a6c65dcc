"""The marks: there while a profile of ours runs, and not a moment longer."""

from types import SimpleNamespace

import pytest

from sage_eval.engine.scheduler_profile import ATTENTION, EAGER, LINEAR, SERVED, marks, start, stop


@pytest.fixture(scope="module")
def layers():
    """SGLang's attention layer, and a linear layer of a class of its own."""
    import torch
    from sglang.srt.layers.linear import LinearBase
    from sglang.srt.layers.radix_attention import RadixAttention

    class Doubling(LinearBase):
        def __init__(self):
            torch.nn.Module.__init__(self)

        def forward(self, x):
            return 2 * x

    return RadixAttention, Doubling


@pytest.fixture
def manager():
    """SGLang's profiler manager as far as the hooks see it."""
    return SimpleNamespace(profile_prefix=SERVED)


def answer(success):
    return lambda *_: SimpleNamespace(success=success)


def test_layers_open_ranges_inside_and_are_as_they_were_afterwards(layers):
    import torch
    from torch.profiler import ProfilerActivity, profile

    attention, doubling = layers
    before = [vars(layer)["forward"] for layer in layers]
    with profile(activities=[ProfilerActivity.CPU]) as found:
        doubling()(torch.ones(1))
        with marks():
            assert all(vars(layer)["forward"] is not old for layer, old in zip(layers, before, strict=True))
            doubling()(torch.ones(1))
            with pytest.raises(AttributeError):
                attention.forward(SimpleNamespace(), None, None, None, None)
    names = [event.name for event in found.events()]
    assert (names.count(LINEAR), names.count(ATTENTION)) == (1, 1)
    assert [vars(layer)["forward"] for layer in layers] == before


def test_an_error_inside_leaves_no_mark(layers):
    before = [vars(layer)["forward"] for layer in layers]
    with pytest.raises(ZeroDivisionError), marks(eager=True):
        raise ZeroDivisionError
    assert [vars(layer)["forward"] for layer in layers] == before


def test_only_an_eager_profile_keeps_graphs_from_being_replayed():
    from sglang.srt.model_executor.runner.decode_cuda_graph_runner import DecodeCudaGraphRunner

    before = DecodeCudaGraphRunner.can_run_graph
    with marks():
        assert DecodeCudaGraphRunner.can_run_graph is before
    with marks(eager=True):
        assert DecodeCudaGraphRunner.can_run_graph(None, None) is False
    assert DecodeCudaGraphRunner.can_run_graph is before


@pytest.mark.parametrize("label", [SERVED, EAGER])
def test_a_profile_of_ours_has_marks_until_it_stops(label, layers, manager):
    manager.profile_prefix = label
    before = vars(layers[0])["forward"]
    assert start(answer(True), manager).success
    assert vars(layers[0])["forward"] is not before
    stop(answer(True), manager)
    assert vars(layers[0])["forward"] is before


def test_a_profile_of_another_or_one_that_did_not_start_has_none(layers, manager):
    before = vars(layers[0])["forward"]
    assert not start(answer(False), manager).success
    manager.profile_prefix = "mine"
    start(answer(True), manager)
    start(answer(True), SimpleNamespace())
    assert vars(layers[0])["forward"] is before
