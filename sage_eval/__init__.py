"""sage-eval: may I switch this model to SageAttention on this GPU, and what do I gain and lose?

Importing this package loads nothing heavy: torch, SGLang and lm-eval are imported where they are used.
"""

__version__ = "0.1.0"
