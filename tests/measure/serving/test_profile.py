"""Whose time was it: traces small enough to add up by hand."""

import pytest

from sage_eval.errors import DataError
from sage_eval.measure.serving.profile import Spans, learn, parse, times, unplaced
from tests.measure.serving.traces import call, decode, kernel, op, prefill, span, trickling

US = 1e-6


def test_moment_is_in_a_span_or_not_however_they_overlap():
    spans = Spans([(10, 20), (15, 30), (50, 60), (51, 52)])
    inside = [5, 10, 20, 29, 31, 50, 55, 61]
    assert [moment in spans for moment in inside] == [False, True, True, True, False, True, True, False]
    assert not Spans([])


def test_kernels_belong_to_the_layer_that_launched_them_whatever_their_name():
    found = times(parse(prefill(), gpu=True), "prefill")
    assert found.seconds == pytest.approx(
        {"attention": 80 * US, "products": 90 * US, "other": 10 * US, "idle": 20 * US}
    )
    assert (found.by, found.guessed) == ("launch", 0.0)
    assert [(k.name[:12], k.seconds, k.calls) for k in found.kernels] == [
        ("void cutlass", pytest.approx(60 * US), 1),
        ("_code_kernel", pytest.approx(20 * US), 1),
    ]


def test_what_overlaps_is_not_counted_twice():
    events = prefill()
    events += [call(9, 62), kernel("late", 9, 170, 45)]  # 10 µs of it while attend runs, and over the gap and the norm
    found = times(parse(events, gpu=True), "prefill")
    assert found.seconds == pytest.approx({"attention": 80 * US, "products": 85 * US, "other": 35 * US, "idle": 0.0})


def test_kernel_whose_call_is_missing_is_found_by_its_operation():
    events = [e for e in prefill() if e["args"].get("correlation") != 3]
    events += [
        op("sgl_kernel::fwd", 39, 3, **{"External id": 77}),
        kernel("attend", 300, 120, 60, **{"External id": 77}),
    ]
    assert times(parse(events, gpu=True), "prefill").seconds["attention"] == pytest.approx(80 * US)


def test_decode_steps_are_averaged_without_the_first_and_the_last():
    found = times(parse(decode(graph=False), gpu=True), "decode")
    # Two steps of 100 µs, the last of which ends with its last kernel, 20 µs before the next begins.
    assert found.seconds == pytest.approx(
        {"attention": 40 * US, "products": 30 * US, "other": 10 * US, "idle": 10 * US}
    )
    assert [(k.name, k.calls) for k in found.kernels] == [("stage1", 1), ("fill", 1)]


def test_steps_between_the_prefills_of_requests_that_trickle_in_are_none_of_the_decodes():
    assert times(parse(trickling(), gpu=True), "decode") == times(parse(decode(graph=False), gpu=True), "decode")


def test_prefill_after_the_last_step_leaves_no_decode():
    events = [*decode(graph=False), span("step[EXTEND bs=1]", 9000, 30)]
    with pytest.raises(DataError, match="no decode"):
        times(parse(events, gpu=True), "decode")


def test_replayed_graph_is_read_by_what_the_names_did_without_it():
    served, eager = parse(decode(graph=True), gpu=True), parse(decode(graph=False), gpu=True)
    assert unplaced(served, "decode") == 1.0
    assert unplaced(eager, "decode") == 0.0
    found = times(served, "decode", learn(eager, "decode"))
    # `fill` is half the attention's, and is shared out so.
    assert found.seconds == pytest.approx(
        {"attention": 40 * US, "products": 30 * US, "other": 10 * US, "idle": 10 * US}
    )
    assert found.by == "name"
    assert found.guessed == 0.0


def test_names_that_were_not_seen_are_guessed_at_and_counted():
    found = times(parse(decode(graph=True), gpu=True), "decode", {"stage1": {"attention": 1.0}, "fill": {"other": 1.0}})
    assert found.seconds["products"] == pytest.approx(30 * US)  # nvjet is cuBLAS's
    assert found.guessed == pytest.approx(30 / 80)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<", "attention"),
        ("_fwd_grouped_kernel_stage1", "attention"),
        ("void flashinfer::BatchDecodeWithPagedKVCacheKernel<", "attention"),
        ("void flashinfer::norm::FusedAddRMSNormKernel<8u, __nv_bfloat16>", "other"),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NNT", "products"),
        ("void cutlass::device_kernel<cutlass::gemm::kernel::GemmUniversal<", "products"),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<int>>", "other"),
    ],
)
def test_guesses_by_names_as_the_libraries_have_them(name, part):
    events = [span("step[EXTEND bs=1]", 0, 9), call(1, 1, "cudaGraphLaunch"), kernel(name, 1, 10, 5)]
    found = times(parse(events, gpu=True), "prefill")
    assert found.seconds[part] == pytest.approx(5 * US)
    assert found.guessed == 1.0


def test_kernel_of_a_graph_is_one_even_where_its_launch_was_not_recorded():
    events = [e for e in prefill() if e["args"].get("correlation") != 4]
    events += [
        kernel("norm", 444, 200, 10, **{"graph node id": 12, "External id": 5}),
        op("aten::mm", 2, 3, **{"External id": 5}),
    ]
    assert unplaced(parse(events, gpu=True), "prefill") == pytest.approx(10 / 180)


def test_without_a_gpu_the_outermost_operations_count():
    events = [
        span("step[EXTEND bs=1 toks=8]", 0, 100),
        span("sage_eval.attention", 10, 40), op("aten::bmm", 12, 20), op("aten::mm", 13, 10), op("aten::mul", 35, 10),
        op("aten::linear", 60, 30), op("aten::addmm", 61, 28),
        op("aten::add", 95, 5),
    ]  # fmt: skip
    found = times(parse(events, gpu=False), "prefill")
    assert found.seconds == pytest.approx({"attention": 30 * US, "products": 30 * US, "other": 5 * US, "idle": 23 * US})
    assert [(k.name, k.seconds) for k in found.kernels] == [
        ("aten::bmm", pytest.approx(20 * US)), ("aten::mul", pytest.approx(10 * US)),
    ]  # fmt: skip


def test_trace_without_a_kernel_on_a_gpu_tells_nothing():
    with pytest.raises(DataError, match="CUPTI"):
        parse([e for e in prefill() if e["cat"] != "kernel"], gpu=True)


def test_trace_without_enough_steps_tells_nothing():
    with pytest.raises(DataError, match="no decode"):
        times(parse(prefill(), gpu=True), "decode")
