"""Exact AUC by ranks in float64. (torchmetrics squashes logits, which ties large ones, and divides in float32.)"""

import numpy as np
from numpy.typing import NDArray


def auc(scores: NDArray, labels: NDArray) -> float:
    """Area under the ROC curve, ties counted half. scores and labels (N,). NaN without both classes, or with a NaN."""
    return grouped_auc(scores, labels, np.zeros(len(labels)))


def grouped_auc(scores: NDArray, labels: NDArray, groups: NDArray) -> float:
    """Mean AUC of the groups, weighted by their numbers of candidates, without groups of one class.

    scores, labels and groups (N,). NaN if a score is NaN, which has no rank, or if no group has both classes."""
    if np.isnan(scores).any():
        return float("nan")
    order = np.lexsort((scores, groups))
    scores, labels, groups = scores[order], labels[order].astype(np.float64), groups[order]
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1]]) if len(groups) else np.zeros(0, np.int64)
    sizes = np.diff(np.r_[starts, len(groups)])
    rank = np.arange(len(scores)) - np.repeat(starts, sizes) + 1.0
    # Ties share the mean of their ranks.
    tied = np.r_[True, (scores[1:] != scores[:-1]) | (groups[1:] != groups[:-1])] if len(scores) else np.zeros(0, bool)
    run = np.cumsum(tied) - 1
    rank = (np.bincount(run, rank) / np.bincount(run))[run] if len(scores) else rank
    positives = np.add.reduceat(labels, starts) if len(starts) else np.zeros(0)
    rank_sum = np.add.reduceat(rank * labels, starts) if len(starts) else np.zeros(0)
    negatives = sizes - positives
    both = (positives > 0) & (negatives > 0)
    if not both.any():
        return float("nan")
    areas = (rank_sum - positives * (positives + 1) / 2)[both] / (positives * negatives)[both]
    return float(np.average(areas, weights=sizes[both]))
