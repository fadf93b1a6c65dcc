"""What is read off a model once, before any comparison: the mean of its keys, and checkpoints under outlier stress.

Runs the model in transformers, not in SGLang: a checkpoint is prepared for whatever engine serves it.
"""
