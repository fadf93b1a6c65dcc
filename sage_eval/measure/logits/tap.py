"""The distributions at the wanted positions, taken in SGLang's scheduler process as a prefill passes by.

A forward hook on the model's `LogitsProcessor` (SGLang's `forward_hooks`), not one around its `_get_logits`: the module
sees each batch once, with its requests' ids, lengths and cached prefixes, before rows are pruned and cut into the
pieces of 2,048 that log-probabilities are computed in. So a position is found the same way whether a prompt comes whole
or in chunks, no log-probabilities have to be asked for, and only the wanted rows go through the LM head.
The hook fires in eager prefill; in prefill graphs a batch has no ids of its requests, and decode has no prompts.

On disk, for the parent to read, a row is one position: the log-probabilities of the whole vocabulary as uint16 over 16
nats, and in full precision what must be exact. `BEYOND` stands for all ids less probable than e⁻¹⁶; what they hold
together is the row's `tail`.
"""

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sage_eval.engine.scheduler import lengths

if TYPE_CHECKING:
    from torch import Tensor


NATS = 16.0
BEYOND = 65_535
STEP = NATS / (BEYOND - 1)
"""Nats between two codes, 2.4e-4: a log-probability is off by at most half of it, 1.2e-4."""
FAILURE, PLAN = "failure", "plan.json"
_SIGN = 1 << 15

Rows = np.memmap[Any, np.dtype[np.void]]


def row_type(vocabulary: int) -> np.dtype[np.void]:
    """`true`: log-probability of the true token, nats; `top`: most probable id; `tail`: probability; `codes`."""
    return np.dtype([
        ("place", "<i4"), ("top", "<i4"), ("true", "<f4"), ("tail", "<f4"), ("codes", "<u2", (vocabulary,)),
    ])  # fmt: skip


def chunk_path(folder: Path, rid: str) -> Path:
    """Where the rows of request `rid` are."""
    return folder / f"{rid}.rows"


def read(path: Path, vocabulary: int) -> Rows:
    """The rows in `path`, memory-mapped. `ValueError` for a file that is no whole number of rows."""
    return np.memmap(path, dtype=row_type(vocabulary), mode="r")


def hook(folder: Path) -> dict[str, Any]:
    """The item of SGLang's `forward_hooks` that writes the rows of the requests in `folder/plan.json` to `folder`."""
    return {
        "name": "sage_eval_logits",
        "target_modules": ["logits_processor", "*.logits_processor"],
        "hook_factory": f"{__name__}:attach",
        "config": {"folder": str(folder)},
    }


def attach(config: dict[str, Any]) -> Callable[..., None]:
    """SGLang's factory: the forward hook, which changes nothing of what the module returns."""
    from sglang.srt.runtime_context import get_parallel

    folder = Path(config["folder"])
    plan: dict[str, tuple[list[int], list[int]]] = json.loads((folder / PLAN).read_text())

    def forward_hook(module: Any, inputs: tuple[Any, ...], _: Any) -> None:
        _, hidden, head, batch, *_rest = inputs
        if not batch.forward_mode.is_extend() or not batch.rids:
            return
        first = 0
        for rid, prefix, length in zip(batch.rids, *lengths(batch), strict=False):
            if rid in plan:
                places, targets = plan[rid]
                wanted = [i for i, place in enumerate(places) if prefix <= place < prefix + length]
                if wanted:
                    rows = [first + places[i] - prefix for i in wanted]
                    # All ranks take part: the LM head may gather over them.
                    logits = module._get_logits(hidden[rows], head, batch, use_logits_buffer=False)
                    if get_parallel().tp_rank == 0:
                        found = reduce(logits, [targets[i] for i in wanted])
                        _append(folder, rid, [places[i] for i in wanted], found)
            first += length

    return forward_hook


def reduce(logits: "Tensor", targets: list[int]) -> dict[str, Any]:
    """The fields of `row_type` but for `place`, as NumPy arrays; logits [rows, vocabulary] on any device."""
    import torch

    logprobs = torch.log_softmax(logits.float(), dim=-1)
    beyond = ~(logprobs >= -NATS)
    codes = (logprobs * (-1 / STEP)).round_().masked_fill_(beyond, BEYOND)
    true = logprobs.gather(1, torch.tensor(targets, device=logprobs.device)[:, None])[:, 0]
    fields = {
        "top": logprobs.argmax(dim=1).to(torch.int32),
        "true": true,  # NaN where any logit of the row is
        "tail": (logprobs.exp() * beyond).sum(dim=1),
        # Through int16: few operations know uint16.
        "codes": (codes.to(torch.int32) - _SIGN).to(torch.int16),
    }
    arrays = {name: tensor.cpu().numpy() for name, tensor in fields.items()}
    arrays["codes"] = arrays["codes"].view(np.uint16) ^ np.uint16(_SIGN)
    return arrays


def _append(folder: Path, rid: str, places: list[int], fields: dict[str, Any]) -> None:
    """Ordinary writing: a full disk is an error here, where a memory map would be killed by SIGBUS."""
    rows = np.zeros(len(places), row_type(fields["codes"].shape[1]))
    rows["place"] = places
    for name, values in fields.items():
        rows[name] = values
    path = chunk_path(folder, rid)
    try:
        with path.open("ab") as file:
            file.write(rows.tobytes())
    except OSError as error:
        # The parent raises it with what to do; here it would kill the scheduler.
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            (folder / FAILURE).write_text(error.strerror or str(error))
        sys.stderr.write(f"logits of {rid}: {error}\n")
