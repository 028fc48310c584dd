"""Evaluation of a sharded model on one split."""

import torch
from torch import nn
from torchdata.stateful_dataloader import StatefulDataLoader

from dist_rec.train.metrics import TaskMetrics, gather_rows, task_metrics
from dist_rec.train.ranks import Ranks


@torch.no_grad()
def evaluate(model: nn.Module, loader: StatefulDataLoader, labels: list[str], ranks: Ranks) -> dict[str, TaskMetrics]:
    """Metrics per task over the candidates of all ranks, the same on every rank. Leaves the model in training mode.

    Ranks without data take part with empty batches, which the reader makes. Comm: the model's all-to-alls, then one
    gather of every candidate's logits, labels and group.
    """
    model.eval()
    rows, groups, has_truth = [], [], False
    for batch in loader:
        batch = batch.to(ranks.device, non_blocking=True)
        _, (_, logits) = model(batch)
        truth = batch.truth if batch.truth is not None else batch.labels
        rows.append(torch.cat([logits, batch.labels, truth], dim=1).cpu())
        groups.append(batch.group.repeat_interleave(batch.candidates.lengths).cpu())
        has_truth = batch.truth is not None
    model.train()
    every = gather_rows(torch.cat(rows), ranks.host_group)
    group = gather_rows(torch.cat(groups), ranks.host_group)
    logits, observed, truth = every.chunk(3, dim=1)
    return {
        name: task_metrics(logits[:, task], observed[:, task], group, truth[:, task] if has_truth else None)
        for task, name in enumerate(labels)
    }
