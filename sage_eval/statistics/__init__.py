"""Paired statistics: pure functions on arrays, which know nothing of arms, tasks or files.

    estimate       a value with its uncertainty; the one variance formula (clusters, strata)
    studentised    Student's t or the bootstrap-t, the wider
    paired         means, paired differences, ratios of sums
    proportions    flips, exact McNemar, Tango's and Wilson's score intervals
    changes        changed answers, split into near-ties and real ones
    equivalence    TOST, another level, detectable effect, items that would settle it, Holm
    resampling     the bootstrap, where no formula holds
    ratio          how many times as fast, of rounds in turn or not
    divergence     KL from full vocabularies, or its lower bound from top-k lists
    fidelity       llama.cpp's table of logit fidelity, clustered by document
    pooled         one permutation test over all tasks
    verdict        one word for each task: equivalent, worse, loss found, better, inconclusive, not established

Three arms pair as well as two: the excess of a candidate over a floor is `paired_difference(floor, candidate)`, and for
distances to the baseline (KLD, flips) the paired difference of the two arms' distances, item by item.
"""
