"""Do the verdicts' statistics hold what they promise? Data of known truth on a stated grid, counted.

    python benchmarks/verdict_simulations.py --runs 1000 > table.md      # a few minutes on one core

Documents: 40, 62 or 200; of one size, of 500 to 8,000 words, lognormal, or one with half of the words; each document's
loss normal around one margin, lognormal (skewed), or carried by a twentieth of the documents. Comparisons of equal arms
(A/A): three tasks and three floor arms. Doses: one damage in five strengths, of which all, some or none is harmful.
Looks: answers and documents judged at a tenth, a quarter, half and all of them, until the verdict is settled.
"""

import argparse
import sys
from collections.abc import Callable

import numpy as np

from sage_eval.compare.looks import SETTLED
from sage_eval.statistics.equivalence import at_look, equivalence
from sage_eval.statistics.estimate import Estimate
from sage_eval.statistics.paired import paired_difference, paired_ratio_difference
from sage_eval.statistics.pooled import pooled
from sage_eval.statistics.sequential import LOOKS
from sage_eval.statistics.verdict import METRICS, Evidence, cautions, judge, seen_controls

MARGIN = 0.005
SIZES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "of one size": lambda _, n: np.full(n, 1_000.0),
    "500 to 8,000 words": lambda rng, n: rng.integers(500, 8_000, n).astype(float),
    "lognormal": lambda rng, n: np.exp(rng.normal(7, 0.7, n)),
    "one holds half": lambda _, n: np.r_[(n - 1) * 1_000.0, np.full(n - 1, 1_000.0)],
}
LOSSES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "normal": lambda rng, n: MARGIN + rng.normal(0, 0.012, n),
    "lognormal": lambda rng, n: MARGIN * np.exp(rng.normal(0, 1, n) - 0.5),
    "a twentieth carries it": lambda rng, n: (rng.random(n) < 0.05) * MARGIN / 0.05 + rng.normal(0, 0.0005, n),
}


def documents(rng: np.random.Generator, runs: int) -> None:
    """Coverage and false *equivalent* at a true loss of one margin, and how much of it without a caution."""
    sys.stdout.write("| documents | sizes | losses | no interval | coverage | false *equivalent* | unwarned |\n")
    sys.stdout.write("| ---: | --- | --- | ---: | ---: | ---: | ---: |\n")
    for count in (40, 62, 200):
        for size, draw_sizes in SIZES.items():
            for kind, draw_losses in LOSSES.items():
                held = false = unwarned = refused = 0
                for _ in range(runs):
                    words = draw_sizes(rng, count)
                    found = paired_ratio_difference(np.zeros(count), words * draw_losses(rng, count), words)
                    if found.low is None or found.high is None:
                        refused += 1
                        continue
                    held += found.low <= MARGIN <= found.high
                    wrong = equivalence(found, MARGIN).equivalent
                    false += wrong
                    unwarned += wrong and not cautions(found)
                given = runs - refused
                shown = ["–"] * 3
                if given > runs / 20:
                    shown = [f"{held / given:.3f}", *(f"{100 * n / given:.1f} %" for n in (false, unwarned))]
                sys.stdout.write(f"| {count} | {size} | {kind} | {refused / runs:.0%} | {' | '.join(shown)} |\n")
                sys.stdout.flush()


def flipped(rng: np.random.Generator, n: int, lost: int, gained: int) -> Estimate:
    """A paired difference of n answers, of which some are expected to be lost and gained."""
    base, cand = np.zeros(n), np.zeros(n)
    a, b = rng.poisson(lost), rng.poisson(gained)
    base[:a], cand[a : a + b] = 1, 1
    return paired_difference(base, cand)


def alarms(rng: np.random.Generator, runs: int) -> None:
    """How often equal arms are called anything but equal: the candidate over tasks, three floor arms, all pooled."""
    metric, text = METRICS["accuracy"], METRICS["log_perplexity"]
    found = dict.fromkeys(("candidate, three tasks", "any of three floor arms × three tasks", "pooled test"), 0)

    def tasks() -> tuple[list[Evidence], dict[str, np.ndarray]]:
        words, moved = rng.integers(500, 8_000, 62).astype(float), rng.normal(0, 0.002, 62)
        flips = rng.choice([-1.0, 0, 1], 600, p=[0.015, 0.97, 0.015])
        evidence = [
            Evidence("mmlu", metric, flipped(rng, 14_042, 70, 70)),
            Evidence("text", text, paired_ratio_difference(np.zeros(62), words * moved, words)),
            Evidence("retrieval", metric, paired_difference(np.maximum(-flips, 0), np.maximum(flips, 0))),
        ]
        return evidence, {"text": words * moved, "retrieval": -flips}

    for _ in range(runs):
        evidence, losses = tasks()
        named = ("worse", "loss found", "better")
        found["candidate, three tasks"] += any(t.kind in named or t.significant for t in judge(evidence).tasks)
        floors = [item for _ in range(3) for item in tasks()[0]]
        found["any of three floor arms × three tasks"] += any(t.significant for t in judge(floors).tasks)
        answer = pooled(losses)
        found["pooled test"] += answer is not None and answer.p < 0.05
    sys.stdout.write("\n| equal arms | alarms per run |\n| --- | ---: |\n")
    sys.stdout.writelines(f"| {name} | {100 * count / runs:.1f} % |\n" for name, count in found.items())


def margin(rng: np.random.Generator, runs: int) -> None:
    """What a loss of half a margin, one and two is called, on answers."""
    metric = METRICS["accuracy"]
    sys.stdout.write("\n| true loss on 14,042 answers, 1 % flips | equivalent | loss found | worse | inconclusive |\n")
    sys.stdout.write("| --- | ---: | ---: | ---: | ---: |\n")
    for share in (0.0, 0.5, 1.0, 2.0):
        kinds: dict[str, int] = {}
        for _ in range(runs):
            shift = share * metric.margin * 14_042 / 2
            control = flipped(rng, 14_042, 180, 60)
            item = Evidence("mmlu", metric, flipped(rng, 14_042, 70 + shift, max(0, 70 - shift)), {"int4": control})
            kind = judge([item]).kind.removesuffix(" (blunt)")
            kinds[kind] = kinds.get(kind, 0) + 1
        cells = [f"{100 * kinds.get(k, 0) / runs:.1f} %" for k in ("equivalent", "loss found", "worse", "inconclusive")]
        sys.stdout.write(f"| {share:g} margins | {' | '.join(cells)} |\n")


def doses(rng: np.random.Generator, runs: int) -> None:
    """How often a control is seen, by how many weaker harmless doses ran beside it."""
    metric, names = METRICS["accuracy"], [f"dose-{i}" for i in range(5)]
    sys.stdout.write("\n| strongest of five doses | doses run | something seen |\n| --- | ---: | ---: |\n")
    for label, loss in (("harmless", 0), ("a loss of 0.9 margins, 4,000 answers", 18), ("of 2 margins", 40)):
        for count in (1, 3, 5):
            seen = 0
            for _ in range(runs):
                arms = {name: flipped(rng, 4_000, 40 + loss * (i == 0), 40) for i, name in enumerate(names[:count])}
                seen += bool(seen_controls(Evidence("t", metric, flipped(rng, 4_000, 1, 1), arms, list(arms))))
            sys.stdout.write(f"| {label} | {count} | {100 * seen / runs:.1f} % |\n")


def answers(rng: np.random.Generator, loss: float) -> Callable[[int], Estimate]:
    """14,042 answers of which 1 % flip, the candidate being `loss` margins lower; the estimate of the first n."""
    shift = loss * METRICS["accuracy"].margin / 2
    base_rate, gain = max(0.005, shift), max(0.0, max(0.005, shift) - shift)
    drawn = rng.random(14_042)
    lost, gained = drawn < base_rate + shift, (drawn >= base_rate + shift) & (drawn < base_rate + shift + gain)
    return lambda n: paired_difference(lost[:n].astype(float), gained[:n].astype(float))


def texts(kind: str) -> Callable[[np.random.Generator, float], Callable[[int], Estimate]]:
    """The same of 400 documents of 500 to 8,000 words."""

    def draw(rng: np.random.Generator, loss: float) -> Callable[[int], Estimate]:
        words, drawn = SIZES["500 to 8,000 words"](rng, 400), LOSSES[kind](rng, 400)
        moved = words * (drawn + (loss - 1) * MARGIN if kind == "normal" else drawn * loss)
        return lambda n: paired_ratio_difference(np.zeros(n), moved[:n], words[:n])

    return draw


def looks(rng: np.random.Generator, runs: int) -> None:
    """What a comparison that stops when it is settled says, how often its interval holds, and what it cost."""
    order = ("equivalent", "better", "loss found", "worse", "inconclusive")
    sys.stdout.write(f"\n| items | true loss, margins | {' | '.join(order)} | interval holds | items used |\n")
    sys.stdout.write(f"| --- |{' ---: |' * 8}\n")
    grid: list[tuple[str, str, int, Callable[[np.random.Generator, float], Callable[[int], Estimate]]]] = [
        ("14,042 answers, 1 % flips", "accuracy", 14_042, answers),
        ("400 documents, normal losses", "log_perplexity", 400, texts("normal")),
        ("400 documents, lognormal losses", "log_perplexity", 400, texts("lognormal")),
    ]
    for label, name, count, draw in grid:
        metric = METRICS[name]
        for loss in (0.0, 0.5, 1.0, 2.0, 4.0, 10.0):
            if loss == 0 and "lognormal" in label:
                continue
            kinds: dict[str, int] = {}
            held = used = 0.0
            for _ in range(runs):
                seen, control = draw(rng, loss), draw(rng, max(2.0, 2 * loss))
                for place, share in enumerate(LOOKS):
                    shares, n = LOOKS[: place + 1], int(np.ceil(share * count))
                    found, damage = (at_look(of(n), shares) for of in (seen, control))
                    kind = judge([Evidence("task", metric, found, {"control": damage})]).kind
                    if kind in SETTLED:
                        break
                used += share / runs
                truth = -loss * metric.margin if metric.higher_is_better else loss * metric.margin
                held += (found.low is not None and found.high is not None and found.low <= truth <= found.high) / runs
                kind = kind.removesuffix(" (blunt)").replace("not established", "inconclusive")
                kinds[kind] = kinds.get(kind, 0) + 1
            cells = [f"{100 * kinds.get(kind, 0) / runs:.1f} %" for kind in order]
            sys.stdout.write(f"| {label} | {loss:g} | {' | '.join(cells)} | {held:.3f} | {used:.0%} |\n")
            sys.stdout.flush()


TABLES = (documents, alarms, margin, doses, looks)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--only", choices=[table.__name__ for table in TABLES], help="one table")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    for table in TABLES:
        if options.only in (None, table.__name__):
            table(rng, options.runs)


if __name__ == "__main__":
    main()
