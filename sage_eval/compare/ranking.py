"""Which choice an arm made: the best of what the metric ranks, for `acc_norm` a log-probability per character."""

from sage_eval.store.samples import Sample


def ranked(sample: Sample, metric: str) -> list[float]:
    """A number for each choice, of which `metric` takes the largest: nats, or nats per character or byte."""
    scores = sample.logprobs
    if "acc_mutual_info" in sample.metrics:
        # lm-eval asks for the choices twice: after the question, and after nothing.
        half = len(scores) // 2
        scores, alone = scores[:half], scores[half:]
        if metric == "acc_mutual_info":
            return [score - other for score, other in zip(scores, alone, strict=True)]
    return [score / size for score, size in zip(scores, _sizes(sample, metric, len(scores)), strict=True)]


def chosen(sample: Sample, metric: str) -> int:
    """The number of the choice made."""
    values = ranked(sample, metric)
    return values.index(max(values))


def lead(sample: Sample, metric: str) -> float:
    """By how many nats one log-probability must move, at least, for another choice to be made."""
    values, best = ranked(sample, metric), chosen(sample, metric)
    sizes = _sizes(sample, metric, len(values))
    return min(
        (values[best] - value) * min(sizes[best], size)
        for i, (value, size) in enumerate(zip(values, sizes, strict=True))
        if i != best
    )


def _sizes(sample: Sample, metric: str, count: int) -> list[float]:
    """What each choice's log-probability is divided by; an empty choice's is boundless, as in lm-eval."""
    return [size or 1e-9 for size in sample.sizes.get(metric) or [1] * count]
