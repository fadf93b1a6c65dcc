"""The `sage-eval` command: one file per group of commands. It parses, calls the library, and prints the result."""

from sage_eval.cli.app import app, main

__all__ = ["app", "main"]
