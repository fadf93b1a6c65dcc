"""Activation drift: how far each layer's attention output is from the baseline's, and why."""
