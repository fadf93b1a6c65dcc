"""Latency over request rates: SGLang servers under SGLang's own load generator."""
