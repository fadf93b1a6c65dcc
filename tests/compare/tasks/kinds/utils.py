"""Aggregations as lm-eval's tasks have them beside their YAML."""


def agg_inst_level_acc(items):
    """IFEval's."""
    flat = [item for several in items for item in several]
    return sum(flat) / len(flat)
