"""`sage-eval balance`: a checkpoint that computes the same function and is easier to quantise, for any Sage kernel.

In each layer and KV head, pairs of K's channels that RoPE rotates together are divided by a power of two and the same
pairs of the group's queries multiplied: outlier stress with the other aim. The scales come from one window of text, the
errors that are shown from another.

Refused with a reason, before anything is left on the disk: logits that are not bit-identical in bf16, weights or
activations that leave fp16's range, a checkpoint that is balanced already.
"""

from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from sage_eval.calibrate.capture import Seen, load_model, look, same_function
from sage_eval.calibrate.checkpoint import write
from sage_eval.calibrate.layouts import Shape, shape_of
from sage_eval.calibrate.scales import EXPONENTS, by_rule, choose, ends_of, errors
from sage_eval.calibrate.stress import PROVEN
from sage_eval.calibrate.text import WINDOW, two_windows
from sage_eval.errors import UsageError
from sage_eval.store import provenance

if TYPE_CHECKING:
    from torch import Tensor

RECORD = "balance.json"


class Balance(BaseModel):
    """`balance.json`. `exponents`: log2 of what K's channels were divided by, per layer, KV head and channel.

    `before`, `rule` and `after` are relative L2 errors of the definition (int8-fp16) by layer, on text that was held
    out; `rule` is what the square-root rule alone would give.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    source_sha256: str
    model_type: str
    text: str
    exponents: list[list[list[int]]]
    before: list[float]
    rule: list[float]
    after: list[float]

    @property
    def worst(self) -> int:
        """The layer with the largest error before."""
        return max(range(len(self.before)), key=self.before.__getitem__)


def balance(name: str, output: Path, text: Path | None = None, *, tokens: int = WINDOW) -> Balance:
    """Write the balanced checkpoint of the model `name` (folder or hub id) to `output`; returns what was measured.

    `text` None takes WikiText-2's validation set; two windows of so many `tokens` are used. `UsageError` for an
    architecture, a dtype or a text that cannot work, or a checkpoint that is balanced already, `DataError` where one of
    the checks failed.
    """
    folder = provenance.find_model(name)
    if (folder / RECORD).is_file():
        raise UsageError(f"{folder} is balanced already ({RECORD}): balance the checkpoint that it was made of")
    shape = shape_of(folder)
    given = two_windows(folder, text, tokens=tokens)
    chosen, rules = [], []

    def see(seen: Seen) -> None:
        chosen.append(choose(seen, shape.layout))
        rules.append(by_rule(seen, EXPONENTS[0], shape.layout))

    model = load_model(folder)
    look(model, given.windows[0], see)
    before, rule, after = _held_out(model, given.windows[-1], rules, chosen)
    del model
    record = Balance(
        source_sha256=provenance.describe_model(name, folder)["sha256"],
        model_type=shape.model_type,
        text=given.source,
        exponents=[t.log2().int().tolist() for t in chosen],
        before=before,
        rule=rule,
        after=after,
    )
    write(
        folder, output, shape.weight_factors([1 / t for t in chosen]), (RECORD, record.model_dump(mode="json")),
        lambda written: same_function(folder, written, given.windows[-1][:PROVEN]), card(name, shape, record),
    )  # fmt: skip
    return record


def _held_out(model: object, ids: list[int], *scales: "list[Tensor]") -> list[list[float]]:
    """The definition's error by layer, as the model is and with each of `scales`."""
    import torch

    found: list[list[float]] = []

    def see(seen: Seen) -> None:
        by_layer = [torch.ones(seen.k.shape[1:]), *(scale[seen.layer] for scale in scales)]
        candidates = torch.stack([t.to(seen.k.device) for t in by_layer])
        error = errors(seen, ends_of(len(seen.k)), candidates)
        found.append(error.square().mean((0, 2)).sqrt().tolist())

    look(model, ids, see)
    return [list(column) for column in zip(*found, strict=True)]


def card(name: str, shape: Shape, record: Balance) -> str:
    """The README.md of the checkpoint."""
    worst = record.worst
    where = (
        "the weights of Q's and K's norms"
        if shape.layout.norms
        else "the weights and biases of Q's and K's projections"
    )
    return f"""# {Path(name).name}, balanced for SageAttention

Made by `sage-eval balance` from {Path(name).name} (SHA-256 {record.source_sha256[:16]}…), a {shape.model_type} model.

It computes the same function: in {where}, pairs of K's
channels that RoPE rotates together are divided by a power of two and the same pairs of Q multiplied by it. A logit is a
sum of their products, which do not change, and a power of two rounds nothing: on {PROVEN} tokens of text its logits in
bf16 were those of the source in every bit.

INT8 attention loses less on it. Relative L2 error of the attention output (int8-fp16, held-out text), source → this:
mean of {len(record.before)} layers {fmean(record.before):.4f} → {fmean(record.after):.4f}, worst layer ({worst})
{record.before[worst]:.4f} → {record.after[worst]:.4f}. Scales were chosen on {record.text}.

Use it wherever the source is used, with any attention kernel. `{RECORD}` has the scales and the errors of every layer.
"""
