"""Evaluation metrics, exact over all ranks: every candidate's score is gathered before anything is computed.

N candidates in all. A candidate is one sample; requests play no part except through the grouping key.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from dist_rec.common.auc import auc, grouped_auc
from dist_rec.common.strict import Strict


@dataclass(frozen=True)
class TaskMetrics:
    """One task on one split, over the candidates whose label is defined. AUCs are NaN where a class is missing or a
    score NaN.

    - `auc`; `grouped_auc`: mean of the AUC inside each group that has both classes, weighted by its candidates
    - `logloss` in nats; `ne`: logloss divided by that of always predicting the label rate
    - `calibration`: sum of predictions / sum of labels
    - `best_auc`: AUC of the probability the labels were drawn with, where the data holds it
    - `own`: metrics of one's own by name
    - `strata`: with a filter of events, the same of the candidates that it acts on (`forget`) and of the others
      (`retain`), where there are any
    """

    auc: float
    grouped_auc: float
    logloss: float
    ne: float
    calibration: float
    candidates: int
    label_rate: float
    best_auc: float | None = None
    own: dict[str, float] = field(default_factory=dict)
    strata: "dict[str, TaskMetrics]" = field(default_factory=dict)

    @property
    def diverged(self) -> bool:
        """Whether scores are not finite: there are labels, and no loss of them."""
        return self.candidates > 0 and not math.isfinite(self.logloss)


class Metric:
    """Base of metrics of one's own, made by `Name(options)`. `name` is the one in the log."""

    Config: ClassVar[type[Strict]] = Strict

    def __init__(self, options: Strict) -> None:
        self.options = options

    @property
    def name(self) -> str:
        return type(self).__name__

    def __call__(self, logits: NDArray[np.float64], labels: NDArray[np.float64], groups: NDArray[np.int64]) -> float:
        """Of one task, from all candidates of all ranks whose label is defined: logits, labels 0 or 1, grouping keys
        (N,)."""
        raise NotImplementedError


def task_metrics(
    logits: Tensor, labels: Tensor, groups: Tensor, oracle: Tensor | None, metrics: Sequence[Metric] = ()
) -> TaskMetrics:
    """All metrics of one task from all candidates: logits, labels, groups and oracle (N,). A label of NaN is not
    defined, and its candidate plays no part."""
    defined = ~labels.isnan()
    logits, labels, groups = logits[defined].double(), labels[defined].double(), groups[defined]
    oracle = None if oracle is None else oracle[defined]
    rate = float(labels.mean()) if len(labels) else float("nan")
    logloss = (
        float(torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)) if len(labels) else float("nan")
    )
    base = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate)) if 0 < rate < 1 else float("nan")
    arrays = logits.numpy(), labels.numpy(), groups.numpy()
    return TaskMetrics(
        auc=auc(*arrays[:2]),
        grouped_auc=grouped_auc(*arrays),
        logloss=logloss,
        ne=logloss / base,
        calibration=float(logits.sigmoid().sum() / labels.sum()) if rate > 0 else float("nan"),
        candidates=len(labels),
        label_rate=rate,
        best_auc=None if oracle is None else auc(oracle.numpy(), arrays[1]),
        own={metric.name: float(metric(*arrays)) for metric in metrics},
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
