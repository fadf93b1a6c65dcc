"""Deliberate mistakes in the kernels, which their tests must see; `mutant` imports a copy that has one."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

from sage_eval.attention import kernels

PACKAGE = kernels.__name__
# name: (file, what stands there, what is put in its place)
MUTATIONS = {
    "one scale for all blocks": ("quantise.py", "tl.max(tl.abs(x))", "tl.maximum(tl.max(tl.abs(x)), 12.0)"),
    "mask aligned to the start": ("attend.py", "last_key = prefix + row", "last_key = row"),
    "a batch-mate's mean": ("quantise.py", "((tl.load(sequence + 5) + every)", "(every"),
    "no mean": ("quantise.py", "rows - shift[None, :]", "rows"),
    "tail not masked": ("quantise.py", "tl.where(valid, rows - shift[None, :], 0.0)", "rows - shift[None, :]"),
    "new tokens not read": ("quantise.py", "new + fresh * stride_new", "new + 0 * fresh"),
    "K not balanced": ("quantise.py", "balance_of(balance, head, col, HEAD_DIM))[None", "1.0 + 0 * col)[None"),
    "Q not balanced": ("quantise.py", "balance_of(balance, kv_head, col, HEAD_DIM)[None, :]", "1.0"),
    "V overflows fp16": ("quantise.py", "exponent = tl.maximum(biased - 126 - 9, 0)", "exponent = biased * 0"),
    "running maximum lost": ("attend.py", "acc = acc * shrink[:, None]\n", "acc = acc * 1.0\n"),
}
ON_HOPPER = {
    "mask aligned to the start": ("attend_sm90.py", "last_key = prefix + start", "last_key = start"),
    "second half of a tile by the first's scale": ("attend_sm90.py", "gl.load(following + 1)", "gl.load(following)"),
    "second half of a query block not read": ("attend_sm90.py", "item * BLOCK + half * ROWS", "item * BLOCK"),
}


def mutant(folder: Path, mutation: tuple[str, str, str] | None, module: str) -> ModuleType:
    """The kernels' `module` from a copy under `folder` with `mutation` put in (None: as it stands)."""
    name = f"mutant_{abs(hash((str(folder), mutation)))}"
    target = folder / name
    target.mkdir()
    for path in Path(kernels.__path__[0]).glob("*.py"):
        text = path.read_text()
        if mutation and path.name == mutation[0]:
            assert mutation[1] in text, f"{mutation[1]!r} is no longer in {path.name}: bring the mutation up to date"
            text = text.replace(mutation[1], mutation[2])
        (target / path.name).write_text(text.replace(PACKAGE, name))
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(f"{name}.{module}")
    finally:
        sys.path.remove(str(folder))
