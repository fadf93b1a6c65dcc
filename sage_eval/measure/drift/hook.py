"""The hook on every attention layer, in SGLang's scheduler process (`ServerArgs.forward_hooks`).

The first time that the baseline's engine serves a prompt, the attention outputs are kept in files, and the other arms'
kernels are called with the same q, k and v (`SAME`). Later outputs for that prompt are compared with the kept ones
(`OWN`): those of another arm's engine, or of the baseline's, as it is or with another arm's kernel in place of its own
(`TURN`). The results go to a file of lines, so that nothing large passes through SGLang's replies.
"""

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sage_eval.attention.guard import check_layer
from sage_eval.engine.scheduler import lengths
from sage_eval.errors import EngineError
from sage_eval.measure.drift import kernels
from sage_eval.measure.drift.kernels import Attend, Inputs
from sage_eval.measure.drift.lines import LINES, OTHER, OWN, PROMPTS, SAME, TURN, Line, Watch, outliers, sums


class Hook:
    """A torch forward hook for `RadixAttention` modules; others, and sequences that are no prompt, pass by."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._watch = Watch.model_validate(config)
        self._places = {row.tobytes(): place for place, row in enumerate(np.load(self._watch.folder / PROMPTS))}
        self._batch: Any = None
        self._rows: list[tuple[int, slice]] = []
        self._turn: str | None = None
        self._attend: dict[str, Attend] | None = None

    def __call__(self, layer: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        """The arm's output in place of the layer's, where it is an arm's turn in the baseline's engine."""
        from sglang.srt.layers.radix_attention import RadixAttention

        if not isinstance(layer, RadixAttention):
            return None
        q, k, v, batch = inputs[:4]
        if not batch.forward_mode.is_extend():
            return None
        if batch is not self._batch:
            self._batch, self._rows = batch, list(self._find(batch))
            turn = self._watch.folder / TURN
            self._turn = (turn.read_text() if turn.exists() else None) or None
        if not self._rows:
            return None
        whole = _by_head(layer, q, k, v)
        lines: list[Line] = []
        replaced = None
        for prompt, rows in self._rows:
            mine = whole._replace(q=whole.q[rows], k=whole.k[rows], v=whole.v[rows])
            seen = output[rows].reshape(mine.q.shape)
            kept = self._watch.folder / f"{prompt}-{layer.layer_id}.bin"
            if not kept.exists():
                lines += self._same(prompt, layer, mine, seen)
                # The elements as they lie in memory, for `torch.from_file`.
                seen.contiguous().cpu().view(torch.uint8).numpy().tofile(kept)
            elif self._turn is None or not self._watch.is_baseline:
                lines.append(_own(self._watch.arm, kept, prompt, layer.layer_id, seen))
            else:
                replaced = output.clone() if replaced is None else replaced
                seen = self._ask(self._turn, mine)
                replaced[rows] = seen.reshape(replaced[rows].shape)
                lines.append(_own(self._turn, kept, prompt, layer.layer_id, seen))
        self._write(lines)
        return replaced

    def _find(self, batch: Any) -> Iterable[tuple[int, slice]]:
        """The prompts in a batch, and their rows."""
        ids = batch.input_ids.cpu().numpy().astype(np.int32)
        start = 0
        for prefix, new in zip(*lengths(batch), strict=True):
            place = self._places.get(ids[start : start + new].tobytes())
            if place is not None and not prefix:
                yield place, slice(start, start + new)
            start += new

    def _same(self, prompt: int, layer: Any, inputs: Inputs, output: Tensor) -> Iterator[Line]:
        if not self._watch.is_baseline:
            raise EngineError(f"the baseline kept no output of layer {inputs.layer}: its model is another one")
        check_layer(layer)
        if self._attend is None:
            device = inputs.q.device.type
            found = {
                asked.arm: kernels.kernel_of(asked.backend, asked.settings, device) for asked in self._watch.kernels
            }
            self._attend = {name: attend for name, attend in found.items() if attend} | {OTHER: kernels.other_make}
        reference = kernels.exact(inputs)
        keys = outliers(inputs.k, smoothed=False), outliers(inputs.k, smoothed=True)

        def line(arm: str, **rest: Any) -> Line:
            return Line(cell=SAME, arm=arm, prompt=prompt, layer=inputs.layer, **rest)

        yield line(self._watch.arm, exact=sums(reference, output), keys=keys)
        for name in list(self._attend):
            try:
                theirs = self._ask(name, inputs)
            except EngineError as error:  # the other arms' figures need not be lost with it
                del self._attend[name]
                yield line(name, error=str(error))
            else:
                yield line(name, sums=sums(output, theirs), exact=sums(reference, theirs))

    def _ask(self, arm: str, inputs: Inputs) -> Tensor:
        """The arm's kernel on these inputs; `EngineError` with the first line of whatever it raises."""
        attend = (self._attend or {}).get(arm)
        if attend is None:
            raise EngineError(f"{arm}: its kernel cannot be called in the baseline's engine")
        try:
            return attend(inputs)
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise EngineError(f"{arm}: {reason}") from error

    def _write(self, lines: Iterable[Line]) -> None:
        with (self._watch.folder / LINES).open("a") as file:
            for line in lines:
                found = line.sums or line.exact
                if found and not math.isfinite(found.squared):
                    raise EngineError(f"{line.arm}: the attention output of layer {line.layer} is not finite")
                file.write(line.model_dump_json(exclude_none=True) + "\n")


def _by_head(layer: Any, q: Tensor, k: Tensor, v: Tensor) -> Inputs:
    heads = layer.tp_q_head_num, layer.tp_k_head_num, layer.tp_v_head_num
    q, k, v = (x.reshape(len(x), count, -1).contiguous() for x, count in zip((q, k, v), heads, strict=True))
    return Inputs(layer.layer_id, q, k, v, layer.scaling)


def _own(arm: str, kept: Path, prompt: int, layer: int, output: Tensor) -> Line:
    if kept.stat().st_size != output.numel() * output.element_size():
        raise EngineError(f"the baseline's output of layer {layer} has another size: compare arms of one dtype")
    base = torch.from_file(str(kept), shared=False, size=output.numel(), dtype=output.dtype)
    found = sums(base.to(output.device).view_as(output), output)
    return Line(cell=OWN, arm=arm, prompt=prompt, layer=layer, sums=found)
