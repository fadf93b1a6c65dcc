"""Folders with a stored record of each probe and benchmark, among them a token that would do harm as HTML."""

import shutil
from pathlib import Path

from sage_eval.store.files import read_json, write_json

PROBES = Path(__file__).parents[1] / "measure"
STORED = {
    "logits.json": PROBES / "logits" / "stored" / "schema_1.json",
    "drift.json": PROBES / "drift" / "stored" / "schema_1.json",
    "determinism.json": PROBES / "stored" / "determinism_schema_1.json",
    "serving.json": PROBES / "serving" / "stored" / "schema_1.json",
    "memory.json": PROBES / "serving" / "stored" / "schema_1.json",
    "rate.json": PROBES / "rate" / "stored" / "schema_1.json",
    "scoring.json": PROBES / "scoring" / "stored" / "schema_1.json",
}
TOKEN = "<script>alert(1)</script>|![x](http://127.0.0.1:9/x.png)`<u>**c**</details>\n|"
"""As a tokenizer may well have it."""
FIGURES = (
    {"serving-speed.svg"}
    | {f"drift-{name}.svg" for name in ("own-inputs", "same-inputs")}
    | {
        *(f"logits-{name}-prose.svg" for name in ("kld", "position")),
        "rate-ttft.svg",
        "determinism-ways.svg",
        "scoring-speed.svg",
    }
)


def put(folder: Path, *names: str) -> Path:
    """Copy the stored records of these files, or all."""
    for name in names or STORED:
        shutil.copy(STORED[name], folder / name)
    if (path := folder / "memory.json").exists():
        write_json(path, read_json(path) | {"kind": "memory"})
    if (path := folder / "logits.json").exists():
        record = read_json(path)
        record["arms"][1]["distances"]["worst"][0] |= {"token": TOKEN, "before": "[go](http://127.0.0.1:9/) <http://a>"}
        write_json(path, record)
    return folder
