"""`memory.json`, of the former command `bench memory`."""

from sage_eval.store.old.serving import upgrade

__all__ = ["upgrade"]
