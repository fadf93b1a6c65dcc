"""The record as text. Pure functions."""

from sage_eval.probes.determinism.record import WAYS, ArmResult, Determinism

HOW = (
    "What batches, chunks and cached prefixes change in the baseline is the floor: differences of that size in another "
    "arm, or between two arms, mean nothing."
)
CAUSES = {
    "repeat": "chance (the same request twice)",
    "batched": "batch-mates (none with `max_running_requests=1`)",
    "shuffled": "batch-mates (none with `max_running_requests=1`)",
    "chunked": "chunks (none with `chunked_prefill_size=-1`)",
    "prefix": "cached prefixes (none with `disable_radix_cache=True`)",
}
"""What of SGLang a way of serving makes differ, and the setting that avoids it (by what it does; not measured)."""


def text(result: Determinism) -> str:
    """The result as a Markdown table, what it says of SGLang's settings, and the arms' distances from the baseline."""
    lines = [
        f"{result.arms[0].ways[0].prompts} prompts of {result.tokens:,} tokens; log-probabilities of the second half, "
        f"{result.generated} greedy tokens after it; chunks of {result.chunk:,}.",
        "",
        *(f"**{arm.arm} failed:** {arm.failure}\n" for arm in result.arms if arm.failure),
        "| arm | served | same bits | mean abs. difference (nats) | largest | same output |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for arm in result.arms:
        for way in arm.ways:
            lines.append(
                f"| {arm.arm} | {way.way}: {WAYS[way.way]} | {way.identical}/{way.prompts} | {way.mean:.2g} | "
                f"{way.largest:.2g} | {way.same_output}/{way.prompts} |"
            )
    lines += ["", "What changes bits:", ""]
    lines += [f"- {arm.arm}: {causes(arm)}" for arm in result.arms if arm.ways]
    errors = [f"{arm.arm} {arm.error:.2g}" for arm in result.arms if arm.error is not None]
    if errors:
        lines += ["", f"Mean absolute difference from {result.arms[0].arm}, both `whole`: {', '.join(errors)} nats."]
    return "\n".join(lines) + "\n"


def causes(arm: ArmResult) -> str:
    """What of SGLang changed a log-probability of any prompt, and the settings that avoid it."""
    found = dict.fromkeys(CAUSES[way.way] for way in arm.ways if way.identical < way.prompts)
    if CAUSES["repeat"] in found:  # then whatever else differs may do so for that reason
        return CAUSES["repeat"]
    return ", ".join(found) or "nothing that was tried"


def markdown(result: Determinism) -> str:
    """A section of a report."""
    return f"## Determinism\n\n{text(result)}\n{HOW}\n"
