"""Hypothesis without a deadline (a shared machine is slow now and then) and with few, fixed examples."""

from hypothesis import settings

settings.register_profile("statistics", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("statistics")
