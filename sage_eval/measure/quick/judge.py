"""What a record means: for each question fine, not fine, or could not tell. Pure functions on records.

The limits are coarse on purpose. They are far above what another exact kernel, another batch or INT8 attention changes,
and far below what a broken kernel does; a small loss is what `sage-eval compare` is for.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import exp
from statistics import fmean, median

from sage_eval.errors import UsageError
from sage_eval.measure.quick.record import Check, QuickRecord, State

MASS = 0.01
"""By so much a sum of probabilities may be off one: replies carry single precision."""
DECODED_MEAN, DECODED_LARGEST = 0.05, 1.0
"""Nats between a token's log-probability when decoded and when read."""
AGAINST_MEAN, AGAINST_LARGEST = 0.05, 2.0
"""Nats between a token's log-probability now and in the earlier record."""
LOST = 1 / 3
"""The share of hidden numbers that may be lost against the earlier record, or beside the shortest length."""


def judge(record: QuickRecord, earlier: QuickRecord | None = None) -> list[Check]:
    """All checks of `record`, and those against an `earlier` one. `UsageError` where that is of another model."""
    checks = [*_alone(record)]
    if earlier is not None:
        one, other = (_name(each) for each in (record, earlier))
        if one != other:
            raise UsageError(f"--against: that record is of the model {other}, and the server serves {one}")
        checks += _against(record, earlier)
    return checks


def overall(checks: Iterable[Check]) -> State:
    """Not fine where any check is; fine where all are."""
    states = {check.state for check in checks}
    if "not fine" in states:
        return "not fine"
    return "fine" if states == {"fine"} else "could not tell"


def exit_code(checks: Iterable[Check]) -> int:
    """0 fine, 1 not fine, 2 could not tell."""
    return {"fine": 0, "not fine": 1, "could not tell": 2}[overall(checks)]


def _alone(record: QuickRecord) -> Iterator[Check]:
    yield _absent(record, "end") or _check("health", True, "the server generates, before and after")
    yield _absent(record, "logprobs") or _mass(record)
    if record.logprobs:
        yield _decoded(record)
    yield _absent(record, "determinism") or _repeated(record)
    if record.determinism:
        yield _batched(record)
    yield _absent(record, "speed") or _check("speed", True, "every request was answered in full")
    yield _absent(record, "retrieval") or _retrieved(record)
    if "sage_attn" in str([record.server.get(name) for name in _BACKENDS]):
        yield _covered(record)


_BACKENDS = ("attention_backend", "prefill_attention_backend", "decode_attention_backend")


def _absent(record: QuickRecord, part: str) -> Check | None:
    """The check of a part that broke off or was not measured at all."""
    name = "health" if part == "end" else part
    if part in record.failed:
        return _check(name, False, record.failed[part])
    if part != "end" and not getattr(record, part):
        return Check(name=name, state="could not tell", said=record.missing.get(part, "nothing was measured"))
    return None


def _mass(record: QuickRecord) -> Check:
    found = record.logprobs
    assert found
    off = max((abs(mass - 1) for mass in found.whole_mass), default=0.0)
    said = f"the {found.top} likeliest tokens sum to {found.listed_mass:.4f} at most"
    if found.whole_mass:
        said += f", the whole vocabulary to 1 within {off:.1e}"
    if found.inversions:
        said += f"; {found.inversions} tokens were likelier than the likeliest"
    return _check("logprobs", found.listed_mass <= 1 + MASS and off <= MASS and not found.inversions, said)


def _decoded(record: QuickRecord) -> Check:
    found = record.logprobs
    assert found
    said = f"mean difference {found.decoded_mean:.2g} nats, largest {found.decoded_largest:.2g}"
    fine = found.decoded_mean <= DECODED_MEAN and found.decoded_largest <= DECODED_LARGEST
    return _check("prefill and decode agree", fine, said)


def _repeated(record: QuickRecord) -> Check:
    way = next((way for way in record.determinism if way.way == "repeat"), None)
    if way is None:
        return Check(name="determinism", state="could not tell", said="no request was repeated")
    said = f"asked twice, {way.identical} of {way.prompts} texts have the same bits, {way.same_output} the same output"
    return _check("determinism", way.same_output == way.prompts, said)


def _batched(record: QuickRecord) -> Check:
    """Other bits in a batch are usual; other distributions are not."""
    others = [way for way in record.determinism if way.way != "repeat"]
    if not others:
        return Check(name="batches", state="could not tell", said="nothing was served in a batch")
    said = ", ".join(f"{way.way} {way.mean:.2g} nats ({way.identical}/{way.prompts} same bits)" for way in others)
    return _check("batches", all(way.mean <= DECODED_MEAN for way in others), said)


def _retrieved(record: QuickRecord) -> Check:
    """Alone a record cannot tell a model that does not find from a server that loses."""
    said = ", ".join(f"{row.found}/{row.asked} at {row.length:,}" for row in record.retrieval)
    first = record.retrieval[0]
    kept = all(row.found / row.asked >= first.found / first.asked - LOST for row in record.retrieval)
    if kept and first.found:
        return _check("retrieval", True, said)
    why = "the model may be too weak for it: compare by --against"
    return Check(name="retrieval", state="could not tell", said=f"{said}; {why}")


def _covered(record: QuickRecord) -> Check:
    prefill = {name: tokens for name, tokens in record.coverage.items() if name.startswith("prefill")}
    if not prefill:
        return Check(name="coverage", state="could not tell", said="the server does not say which kernels computed")
    share = sum(tokens for name, tokens in prefill.items() if "/sage" in name) / sum(prefill.values())
    return _check("coverage", share > 0, f"SageAttention computed {share:.1%} of the prefill tokens")


def _against(record: QuickRecord, earlier: QuickRecord) -> Iterator[Check]:
    name = "against: logprobs"
    if (found := apart(record, earlier)) is None:
        yield Check(name=name, state="could not tell", said="the two records do not have the same texts")
    else:
        mean, largest = found
        said = f"mean difference {mean:.2g} nats, largest {largest:.2g}"
        yield _check(name, mean <= AGAINST_MEAN and largest <= AGAINST_LARGEST, said)
    name = "against: retrieval"
    before = {row.length: row for row in earlier.retrieval}
    both = [(row, before[row.length]) for row in record.retrieval if row.length in before]
    if not both:
        yield Check(name=name, state="could not tell", said="the two records have no length in common")
    else:
        fine = all(row.found / row.asked >= old.found / old.asked - LOST for row, old in both)
        yield _check(name, fine, ", ".join(f"{row.found}, was {old.found} at {row.length:,}" for row, old in both))


def apart(record: QuickRecord, earlier: QuickRecord) -> tuple[float, float] | None:
    """Mean and largest difference of a token's log-probability, in nats; None where the texts are not the same."""
    now, then = record.logprobs, earlier.logprobs
    if not now or not then or now.prompts != then.prompts:
        return None
    pairs = [pair for rows in zip(now.values, then.values, strict=True) for pair in zip(*rows, strict=True)]
    found = [abs(one - other) for one, other in pairs]
    return fmean(found), max(found)


def ratios(record: QuickRecord, earlier: QuickRecord) -> dict[str, list[float | None]]:
    """For each size that both have: times faster now to the first token, reading together, and decoding."""
    before = {row.size: row for row in earlier.speed if row.first}
    return {
        row.size: [
            median(before[row.size].first) / median(row.first),
            _ratio(row.prefill, before[row.size].prefill),
            _ratio(row.decode, before[row.size].decode),
        ]
        for row in record.speed
        if row.first and row.size in before
    }


def perplexity(values: Sequence[Sequence[float]]) -> float:
    """Of all tokens together."""
    return exp(-fmean(value for row in values for value in row))


def _ratio(now: float | None, then: float | None) -> float | None:
    return None if now is None or then is None else now / then


def _name(record: QuickRecord) -> str:
    return str(record.server.get("model_path")).rstrip("/").rpartition("/")[2]


def _check(name: str, fine: bool, said: str) -> Check:
    return Check(name=name, state="fine" if fine else "not fine", said=said)
