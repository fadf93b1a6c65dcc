"""Does the error of the layers forecast the divergence of the model? Models × doses of outlier stress, no engine.

    python benchmarks/forecast.py MODEL… --data-dir DIR --tokens 512 > forecast.md

For each model and dose the definition's error by layer comes from one window of text, the KL divergence from another,
with the definition in place of every layer's attention. The dose is applied to the captured Q and K, as the checkpoint
that `sage-eval stress` writes would give them; so are the balanced scales. Prints a table and rank correlations.
"""

import argparse
import sys
from pathlib import Path

import torch
from scipy.stats import spearmanr

from sage_eval.calibrate.capture import Seen, load_model, look
from sage_eval.calibrate.diagnose import attends, divergences
from sage_eval.calibrate.layouts import shape_of
from sage_eval.calibrate.scales import choose as choose_scales
from sage_eval.calibrate.scales import ends_of, errors
from sage_eval.calibrate.stress import block_peaks, choose, row_factors
from sage_eval.calibrate.text import calibration
from sage_eval.data.folder import use_data

DOSES = (1, 4, 16, 64)
SUMMARIES = {
    "mean": lambda e: e.mean(),
    "root mean square": lambda e: e.square().mean().sqrt(),
    "maximum": lambda e: e.max(),
}


def measure(name: str, text: Path | None, tokens: int) -> list[tuple[str, torch.Tensor, float]]:
    """By dose, and balanced in both ways: the layers' errors, and the KL divergence in nats."""
    folder = Path(name)
    shape, model = shape_of(folder), load_model(folder)
    windows = calibration(folder, text, tokens=3 * tokens, window=tokens).windows
    scales: dict[str, list[torch.Tensor]] = {str(dose): [] for dose in DOSES} | {"checkpoint": [], "balance": []}

    def see(seen: Seen) -> None:
        pairs = choose(block_peaks(seen.k, shape.layout), 1, shared=shape.layout.norms).pairs
        for dose in DOSES:  # a stressed K is K divided by the inverse of the dose
            scales[str(dose)].append(row_factors(shape, pairs, dose).reciprocal())
        scales["checkpoint"].append(choose_scales(seen, shape.layout))
        scales["balance"].append(choose_scales(seen))

    by_layer: dict[str, list[float]] = {kind: [] for kind in scales}

    def measured(seen: Seen) -> None:
        error = errors(seen, ends_of(len(seen.k)), torch.stack([t[seen.layer] for t in scales.values()]))
        for kind, value in zip(scales, error.square().mean((0, 2)).sqrt().tolist(), strict=True):
            by_layer[kind].append(value)

    look(model, windows[0], see)
    look(model, windows[1], measured)
    found = divergences(model, windows[2:3], {kind: attends(scales, scales=kind) for kind in scales})
    return [(x.variant, torch.tensor(by_layer[x.variant]), x.kl) for x in found]


def main() -> None:
    """Print the table and the correlations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--text", type=Path)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--tokens", type=int, default=512)
    args = parser.parse_args()
    use_data(args.data_dir)
    out = sys.stdout.write
    rows = []
    head = ["model", "stress, or balance", *(f"error of the layers, {name}" for name in SUMMARIES), "KL divergence"]
    out(f"| {' | '.join(head)} |\n| --- | --- |{' ---: |' * (len(SUMMARIES) + 1)}\n")
    for name in args.models:
        for dose, error, kl in measure(name, args.text, args.tokens):
            figures = [summary(error) for summary in SUMMARIES.values()]
            rows.append((*map(float, figures), kl))
            out(f"| {Path(name).name} | {dose} | {' | '.join(f'{x:.4f}' for x in figures)} | {kl:.2e} |\n")
            sys.stdout.flush()
    out("\nRank correlation with the KL divergence (Spearman), all rows:\n\n")
    for name, values in zip(SUMMARIES, list(zip(*rows, strict=True))[:-1], strict=True):
        out(f"- {name}: {spearmanr(values, [row[-1] for row in rows]).statistic:.2f}\n")


if __name__ == "__main__":
    main()
