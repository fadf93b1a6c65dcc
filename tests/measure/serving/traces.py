"""Made-up traces: events of Chrome's format as PyTorch's profiler writes them, times in microseconds."""

from sage_eval.engine.scheduler_profile import ATTENTION, LINEAR


def event(cat, name, start, length, **args):
    return {"ph": "X", "cat": cat, "name": name, "ts": start, "dur": length, "pid": 7, "tid": 7, "args": args}


def span(name, start, length):
    return event("user_annotation", name, start, length)


def op(name, start, length, **args):
    return event("cpu_op", name, start, length, **args)


def call(correlation, start, name="cudaLaunchKernel", cat="cuda_runtime"):
    return event(cat, name, start, 1, correlation=correlation)


def kernel(name, correlation, start, length, **args):
    return event("kernel", name, start, length, correlation=correlation, **args)


def prefill():
    """A prefill of one layer on a GPU, launched from 0 to 100 µs and computed from 50 to 250.

    qkv 50 µs, quantise 20, attend 60, a norm 10, the LM head 40: with a gap of 20 µs before the norm. SGLang then
    begins a decode step, whose kernel is not the prefill's.
    """
    return [
        span("step[EXTEND bs=1 toks=64]", 0, 100),
        span(LINEAR, 5, 15), call(1, 10), kernel("nvjet_a", 1, 50, 50),
        span(ATTENTION, 30, 20),
        call(2, 32, "cuLaunchKernelEx", "cuda_driver"), kernel("_code_kernel", 2, 100, 20),
        call(3, 40), kernel("void cutlass::device_kernel<flash::FlashAttnFwdSm90<x>>", 3, 120, 60),
        call(4, 60), kernel("norm", 4, 200, 10),
        op("aten::matmul", 70, 20), call(5, 80), kernel("nvjet_b", 5, 210, 40),
        span("step[DECODE bs=1]", 120, 30), call(6, 130), kernel("norm", 6, 300, 900),
    ]  # fmt: skip


def trickling():
    """`decode`, before which some requests are there already: they are decoded twice, and the rest prefilled between.

    Both steps and the late prefill have kernels of 1 ms, which no later step has.
    """
    events = decode(graph=False)
    for place, (name, at) in enumerate((("EXTEND", -5000), ("DECODE", -4000), ("DECODE", -3000), ("EXTEND", -2000))):
        events += [
            span(f"step[{name} bs=1]", at, 30),
            call(900 + place, at + 5),
            kernel("x", 900 + place, at + 10, 1000),
        ]
    return events


def decode(*, graph):
    """A prefill, then four decode steps of 100 µs each: 40 attention, 30 product, 10 norm, 20 waiting.

    `fill` is launched twice a step, once by the layer (10 of the attention's 40) and once outside (the norm's 10).
    """
    events = [span("step[EXTEND bs=2 toks=64]", 0, 40), span(ATTENTION, 5, 10), call(1, 6), kernel("x", 1, 10, 30)]
    for step in range(4):
        at, first = 100.0 * (step + 1), 10 * (step + 1)
        events += [span("step[DECODE bs=2]", at, 30)]
        works = [("stage1", 0, 30), ("fill", 30, 10), ("nvjet", 40, 30), ("fill", 70, 10)]
        if graph:
            events += [call(first, at + 1, "cudaGraphLaunch")]
            events += [kernel(name, first, at + 10 + start, length) for name, start, length in works]
            continue
        events += [span(ATTENTION, at + 1, 3), span(LINEAR, at + 5, 2)]
        for place, (name, start, length) in enumerate(works):
            moment = at + (2, 3, 6, 9)[place]
            events += [call(first + place, moment), kernel(name, first + place, at + 10 + start, length)]
    return events
