"""Evaluation metrics, exact over all ranks: every candidate's score is gathered before anything is computed.

N candidates in all. A candidate is one sample; requests play no part except through the group id.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class TaskMetrics:
    """One task on one split, over the candidates whose label is defined. AUCs are NaN where a class is missing or a score NaN.

    - `auc`; `grouped_auc`: mean of the AUC inside each group that has both classes, weighted by its candidates
    - `logloss` in nats; `ne`: logloss divided by that of always predicting the label rate
    - `calibration`: sum of predictions / sum of labels
    - `best_auc`: AUC of the probability the labels were drawn with, where the data holds it
    """

    auc: float
    grouped_auc: float
    logloss: float
    ne: float
    calibration: float
    candidates: int
    label_rate: float
    best_auc: float | None = None

    @property
    def diverged(self) -> bool:
        """Whether scores are not finite: there are labels, and no loss of them."""
        return self.candidates > 0 and not math.isfinite(self.logloss)


def auc(scores: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve, ties counted half. scores and labels (N,). NaN unless both classes are present and all scores
    are numbers.

    By ranks in float64: torchmetrics squashes logits, which ties large ones, and divides in float32.
    """
    return grouped_auc(scores.numpy(), labels.numpy(), np.zeros(len(labels)))


def grouped_auc(scores: NDArray, labels: NDArray, groups: NDArray) -> float:
    """AUC within each group, averaged with the group's number of candidates as weight; groups of one class are left out. NaN if
    a score is: a NaN has no place among the others, and sorting would give it one."""
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


def task_metrics(logits: Tensor, labels: Tensor, groups: Tensor, truth: Tensor | None) -> TaskMetrics:
    """All metrics of one task from all candidates: logits, labels, groups and truth (N,). A label of NaN is not defined, and
    its candidate plays no part."""
    defined = ~labels.isnan()
    logits, labels, groups = logits[defined].double(), labels[defined].double(), groups[defined]
    truth = None if truth is None else truth[defined]
    rate = float(labels.mean()) if len(labels) else float("nan")
    logloss = float(torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)) if len(labels) else float("nan")
    base = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)) if 0 < rate < 1 else float("nan")
    return TaskMetrics(
        auc=auc(logits, labels),
        grouped_auc=grouped_auc(logits.numpy(), labels.numpy(), groups.numpy()),
        logloss=logloss,
        ne=logloss / base,
        calibration=float(logits.sigmoid().sum() / labels.sum()) if rate > 0 else float("nan"),
        candidates=len(labels),
        label_rate=rate,
        best_auc=None if truth is None else auc(truth, labels),
    )


def gather_rows(rows: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Concatenates host tensors (n_rank, ...) of all ranks, in rank order, on every rank.

    Comm: one all-gather of lengths, one of rows padded to the longest rank.
    """
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, torch.tensor([len(rows)]), group=group)
    longest = max(int(size) for size in sizes)
    padded = torch.cat([rows, rows.new_zeros(longest - len(rows), *rows.shape[1:])])
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([part[: int(size)] for part, size in zip(parts, sizes, strict=True)])
