"""The text that a model is calibrated on: a seeded slice of WikiText-2's validation set, or a file.

Never the test set: what a comparison is scored on must not have shaped what it compares.
"""

import hashlib
import random
from pathlib import Path
from typing import NamedTuple

from sage_eval.data import tokenizers
from sage_eval.errors import DataError, PrerequisiteError, SageEvalError, UsageError

WINDOW = 2048
"""Tokens a window: those of the token perplexities, long enough for means over a sequence."""
SEED = 1234


class Calibration(NamedTuple):
    """Windows of token ids, each to be run as a sequence of its own, and what they are, in words."""

    windows: list[list[int]]
    source: str

    @property
    def tokens(self) -> int:
        return sum(map(len, self.windows))


def calibration(model: Path, text: Path | None = None, *, tokens: int, window: int = WINDOW) -> Calibration:
    """About `tokens` tokens of calibration text for the tokenizer of `model`, in windows that do not overlap.

    WikiText-2's windows are drawn with a fixed seed, a file's are taken from its start; where the tokenizer puts a BOS
    before a text, each window begins with it. `UsageError` for fewer than two blocks of 64 keys.
    """
    tokenizer = tokenizers.load(model)
    bos = tokenizer.bos_token_id
    first = [bos] if bos is not None and bos in tokenizer("a")["input_ids"][:1] else []
    ids = tokenizer(_read(text), add_special_tokens=False, verbose=False)["input_ids"]
    room = min(window, tokens) - len(first)
    if min(room, len(ids)) < 128:
        raise UsageError(
            f"{min(room, len(ids))} tokens of calibration text: at least 128 are needed, {WINDOW} are usual"
        )
    there = max(1, len(ids) // room)
    count = min(max(1, tokens // window), there)
    chosen = list(range(count)) if text else sorted(random.Random(SEED).sample(range(there), count))
    windows = [first + ids[i * room : (i + 1) * room] for i in chosen]
    if text:
        digest = hashlib.sha256(text.read_bytes()).hexdigest()
        return Calibration(
            windows, f"{text.name} (SHA-256 {digest[:16]}…), its first {sum(map(len, windows)):,} tokens"
        )
    places = ", ".join(map(str, chosen))
    return Calibration(windows, f"WikiText-2 validation, windows {places} of {there}, {room} tokens each (seed {SEED})")


def two_windows(model: Path, text: Path | None = None, *, tokens: int) -> Calibration:
    """Two windows of up to `tokens`: one to choose by, one that is held out. Shorter where the text is too short."""
    found = calibration(model, text, tokens=2 * tokens, window=tokens)
    if len(found.windows) == 1:
        half = len(found.windows[0]) // 2
        found = calibration(model, text, tokens=2 * half, window=half)
    return found._replace(windows=found.windows[:2])


def _read(text: Path | None) -> str:
    if text is None:
        from sage_eval.data.wikitext import load_raw, rows

        try:
            return "\n\n".join(rows(load_raw("validation")))
        except SageEvalError:
            raise
        except Exception as error:  # whatever `datasets` raises where there is no hub
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise PrerequisiteError(
                f"cannot load WikiText-2, the calibration text ({reason}): name a folder with --data-dir, or another "
                "text with --text (`sage-eval stress` and `calibrate` take it)"
            ) from None
    try:
        return text.read_text(encoding="utf-8")
    except OSError as error:
        raise PrerequisiteError(f"cannot read the calibration text {text}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{text} is not UTF-8 text") from None
