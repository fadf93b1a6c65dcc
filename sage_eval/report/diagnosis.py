"""A diagnosis in words, as a table and as a figure."""

from sage_eval.calibrate.diagnose import DAMAGED, OUTLIER, Diagnosis, Layer
from sage_eval.render.figures import LIGHT, MARKERS, Drawing, canvas

CURES = {"int8-fp16 checkpoint": "`sage-eval balance`", "int8-fp16 balance": "`balance=FILE`"}
STYLES = {
    "int8-fp16": ("control", "as it is"),
    "int8-fp16 checkpoint": ("stress", "balanced checkpoint"),
    "int8-fp16 balance": ("candidate", "balance=FILE"),
}
TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def text(found: Diagnosis) -> str:
    """The whole diagnosis as Markdown."""
    parts = [f"# Diagnosis of {found.model}", "\n".join(f"- {line}" for line in words(found)), table(found)]
    if found.divergences:
        parts.append(divergences(found))
    lengths = ", ".join(map(str, found.lengths))
    parts.append(
        "Relative L2 error of the attention output against exact attention on the same Q, K and V: the last 128\n"
        f"queries of sequences of {lengths} tokens, root mean square over lengths and KV heads. Scales were chosen\n"
        f"on one window of text and measured on another: {found.text}."
    )
    return "\n\n".join(parts) + "\n"


def words(found: Diagnosis) -> list[str]:
    """The forecast: which layers carry the damage, why, what cures it, and what length does."""
    plain, lines = "int8-fp16", []
    damaged = found.damaged()
    for number in damaged[:3]:
        layer = found.layers[number]
        cure = "; ".join(f"{layer.error(v):.4f} with {name}" for v, name in CURES.items() if v in found.variants)
        lines.append(
            f"**layer {number}** carries {found.share(number):.0%} of the squared error: {layer.error(plain):.4f}"
            f"{_cause(layer)}; {cure}"
        )
    if not damaged:
        lines.append(f"no layer stands out: the worst is {max(x.error(plain) for x in found.layers):.4f}")
    means = "; ".join(f"{found.mean(v):.4f} with {name}" for v, name in CURES.items() if v in found.variants)
    lines.append(f"mean over {len(found.layers)} layers: {found.mean(plain):.4f}; {means}")
    if len(found.lengths) > 1:
        first, last = found.mean(plain, 0), found.mean(plain, -1)
        trend = "grows" if last > 1.25 * first else "falls" if last < 0.8 * first else "does not change much"
        lines.append(
            f"with length the error {trend}: {first:.4f} at {found.lengths[0]} tokens, {last:.4f} at "
            f"{found.lengths[-1]}"
        )
    return lines


def _cause(layer: Layer) -> str:
    worst = max(layer.outliers, key=lambda outlier: outlier.ratio)
    if worst.ratio < OUTLIER:
        return ""
    how = "RoPE turns it, so that smoothing by the mean does not remove it" if worst.kind == "rotates" else "it varies"
    return f" (channel {worst.channel} of K is {worst.ratio:.0f} times the median one; {how})"


def table(found: Diagnosis) -> str:
    """One row per layer."""
    head = ["layer", *found.variants, "K's outlier / median", "kind"]
    rows = []
    for layer in found.layers:
        worst = max(layer.outliers, key=lambda outlier: outlier.ratio)
        cells = (_bold(layer.error(v)) for v in found.variants)
        rows.append([str(layer.layer), *cells, f"{worst.ratio:.1f}", worst.kind])
    rows.append(["mean", *(f"{found.mean(v):.4f}" for v in found.variants), "", ""])
    rule = ["---:"] * (len(head) - 1) + ["---"]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


def _bold(error: float) -> str:
    return f"**{error:.4f}**" if error > DAMAGED else f"{error:.4f}"


def divergences(found: Diagnosis) -> str:
    """One row per variant: what the definition in every layer does to the next token's distribution."""
    rows = [f"| {x.variant} | {x.kl:.2e} | {100 * x.same_top:.1f} % | {x.loss:+.5f} |" for x in found.divergences]
    return "\n".join((
        "| variant | mean KL divergence, nats | same most probable token | loss, nats per token |",
        "| --- | ---: | ---: | ---: |",
        *rows,
        "",
        f"The definition in place of every layer's attention, against exact attention: {found.divergences[0].tokens:,} "
        "tokens of text that neither of the above saw, the whole vocabulary.",
    ))  # fmt: skip


def figure(found: Diagnosis) -> Drawing:
    """Error by layer, as the model is and with each cure."""
    drawing, [ax] = canvas(3.0)
    shown = {
        variant: [layer.error(variant) for layer in found.layers] for variant in STYLES if variant in found.variants
    }
    for variant, ys in shown.items():
        role, name = STYLES[variant]
        ax.plot(range(len(ys)), ys, MARKERS[role], ls="-", color=LIGHT[role], linewidth=1.2, markersize=4, label=name)
    ax.set_yscale("log")
    ax.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
    ax.minorticks_off()
    ax.set_ylim(min(map(min, shown.values())) / 1.3, max(map(max, shown.values())) * 1.3)
    ax.set_xlabel("layer")
    ax.set_ylabel("relative L2 error (int8-fp16)")
    ax.legend(frameon=False)
    worst = max(found.layers, key=lambda layer: layer.error("int8-fp16"))
    return Drawing(
        "diagnosis",
        f"Error by layer: {found.model}",
        "Relative L2 error of the attention output by layer, before and after balancing. The worst layer is "
        f"{worst.layer} with {worst.error('int8-fp16'):.4f}.",
        drawing,
    )
