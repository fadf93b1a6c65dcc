"""sage-eval: may I switch this model to SageAttention on this GPU, and what do I gain and lose?

Importing this package loads nothing heavy: torch, SGLang and lm-eval are imported where they are used. `load(FOLDER)`
gives a run as pandas data frames, `compare(MODEL, …)` runs one: see `sage_eval.api`.
"""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name not in ("load", "compare"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return import_module("sage_eval.compare") if name == "compare" else import_module("sage_eval.api").load
