"""The scales that make a layer's Q and K easier to quantise: K divided by t, Q multiplied, each product as it was.

INT8 has one scale per block of keys and one per block of queries, which the largest channel sets. K's residual (what
smoothing leaves, R = max |K - mean|) and Q's size M = max |Q| are evened out by t = R^a / M^(1-a); a = 1/2 is the
square-root rule, which makes both sides alike. Which a is best depends on the head, so the definition is asked: each
candidate is run on some query blocks, and a head keeps t = 1 where none is clearly better.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sage_eval.attention.numerics import QUERY_BLOCK, attention
from sage_eval.calibrate.capture import Seen
from sage_eval.calibrate.layouts import Layout
from sage_eval.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

EXPONENTS = (0.5, 0.3, 0.4, 0.6, 0.7)
"""a; the square-root rule comes first."""
GAIN = 0.95
"""A head takes scales only where the error falls below this share: less is within what another text changes."""
FP16_MAX = 65_504.0


def ends_of(tokens: int) -> list[int]:
    """Up to four lengths, evenly spread, whose last query blocks stand for a sequence of `tokens`."""
    step = max(QUERY_BLOCK, tokens // 4)
    return list(range(step, tokens + 1, step))


def errors(
    seen: Seen,
    ends: Sequence[int],
    balances: "Tensor | None" = None,
    exact: "Sequence[Tensor] | None" = None,
    **how: Any,
) -> "Tensor":
    """Relative L2 error of the definition per end, balance and KV head: [ends, candidates, kv_heads], float32.

    At each end, a length, the last 128 queries of such a sequence are computed, so a long one costs little.
    `balances` are candidates, [candidates, kv_heads, head_dim]; None is one candidate, the layer as it is. `exact` are
    the `exact_outputs` for the same ends, where several calls share them; `how` is for `numerics.attention`.
    """
    import torch

    count, kv_heads = 1 if balances is None else len(balances), seen.k.shape[1]
    found = []
    for end, want in zip(ends, exact or exact_outputs(seen, ends), strict=True):
        # Candidates stand side by side as heads, so that the definition itself is what is minimised.
        q, k, v = (x.repeat(1, count, 1) for x in _last(seen, end))
        flat = None if balances is None else balances.flatten(0, 1)
        out = attention(q, k, v, scale=seen.scale, balance=flat, **how).view(len(q), count, kv_heads, -1)
        want = want.view(len(q), 1, kv_heads, -1)  # noqa: PLW2901 - the same outputs, by KV head
        found.append((out - want).square().sum((0, 3)) / want.square().sum((0, 3)).clamp_min(1e-30))
    return torch.stack(found).sqrt()


def exact_outputs(seen: Seen, ends: Sequence[int]) -> "list[Tensor]":
    """Exact attention of the last 128 queries of a sequence of each length."""
    return [attention(*_last(seen, end), scale=seen.scale, variant="exact") for end in ends]


def _last(seen: Seen, end: int) -> "tuple[Tensor, Tensor, Tensor]":
    q, k, v = seen.q[max(0, end - QUERY_BLOCK) : end], seen.k[:end], seen.v[:end]
    return q.float(), k.float(), v.float()


def by_rule(seen: Seen, exponent: float, layout: Layout | None = None) -> "Tensor":
    """The scales t by one exponent, [kv_heads, head_dim], its median over channels 1.

    With a `layout` they are those of a checkpoint: powers of two, equal within each pair that RoPE rotates, and equal
    in all heads where they share a norm.
    """
    kv_heads, dim = seen.k.shape[1:]
    r = (seen.k.float() - seen.k.float().mean(0)).abs().amax(0)
    m = seen.q.float().abs().view(len(seen.q), kv_heads, -1, dim).amax((0, 2))
    if layout:
        r, m = (layout.by_pair(x).amax(-1) for x in (r, m))
        if layout.norms:
            r, m = (x.amax(0, keepdim=True).expand(kv_heads, -1) for x in (r, m))
    # A channel that is zero throughout asks for nothing.
    dead = (r == 0) | (m == 0)
    t = (exponent * r.log2() - (1 - exponent) * m.log2()).masked_fill(dead, 0.0)
    t = t - t.median(-1, keepdim=True).values.masked_fill(dead.all(-1, keepdim=True), 0.0)
    t = t.masked_fill(dead, 0.0)
    return layout.by_channel(t.round().exp2()) if layout else t.exp2()


def choose(seen: Seen, layout: Layout | None = None) -> "Tensor":
    """The best t of each KV head, float32 [kv_heads, head_dim] on the CPU.

    `DataError` for keys or queries that are not finite, or that would leave fp16's range.
    """
    import torch

    if not (seen.q.isfinite().all() and seen.k.isfinite().all()):
        raise DataError(f"queries or keys of layer {seen.layer} are not finite: the checkpoint is damaged")
    ends = ends_of(len(seen.k))
    candidates = torch.stack(
        [torch.ones(seen.k.shape[1:], device=seen.k.device), *(by_rule(seen, a, layout) for a in EXPONENTS)]
    )
    error = errors(seen, ends, candidates).square().mean(0).sqrt()
    if layout and layout.norms:
        error = error.square().mean(1, keepdim=True).sqrt().expand_as(error)
    best, index = error.min(0)
    index = index.masked_fill(best > GAIN * error[0], 0)
    t = candidates[index, torch.arange(len(index), device=index.device)]
    group = seen.q.shape[1] // len(t)
    largest = max(float((seen.k / t).abs().max()), float((seen.q * t.repeat_interleave(group, 0)).abs().max()))
    if not largest <= FP16_MAX:
        raise DataError(f"layer {seen.layer} would reach {largest:.3g} when balanced, beyond fp16's range")
    return t.cpu()
