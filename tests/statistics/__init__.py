"""Hypothesis without a deadline (a shared machine is slow now and then) and with few, fixed examples."""

from hypothesis import settings

quick = settings(deadline=None, max_examples=25, derandomize=True)
