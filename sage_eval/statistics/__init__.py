"""Paired statistics: pure functions on arrays, which know nothing of arms, tasks or files.

    estimate       a value with its uncertainty; the one variance formula (clusters, strata)
    paired         means, paired differences, ratios of sums, recovery
    proportions    flips, exact McNemar, Tango's and Wilson's score intervals
    changes        changed answers, split into near-ties and real ones
    equivalence    TOST, another level, detectable effect, items that would settle it, Holm
    resampling     the bootstrap, where no formula holds
    divergence     KL from full vocabularies, or its lower bound from top-k lists
    fidelity       llama.cpp's table of logit fidelity, clustered by document
    verdict        equivalent, worse, better, inconclusive, not established

Three arms pair as well as two: the excess of a candidate over a floor is `paired_difference(floor, candidate)`, and for
distances to the baseline (KLD, flips) the paired difference of the two arms' distances, item by item.
"""
