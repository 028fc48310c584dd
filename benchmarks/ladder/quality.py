"""AUC of a row after training on some requests, from the weights that all rows start from."""

import numpy as np
import torch

from benchmarks.ladder.cell import RANKS, read_requests
from benchmarks.ladder.jobs import Job, Start
from benchmarks.ladder.rows import Row
from dist_rec.common.auc import auc
from dist_rec.training.metrics import gather_rows

MOST_TEST_REQUESTS = 4000


def auc_after(row: Row, start: Start) -> float:
    """Of the first task on the test split, after one pass over the requests of `start`; the same on every rank.

    Comm: a training run, and one gather of all candidates' logits and labels."""
    cell, ranks = start.cell, start.ranks
    test, _ = read_requests(cell, start.folder, "test", None)
    batches = min(test.num_rows, MOST_TEST_REQUESTS) // (RANKS * cell.batch)  # as many on every rank
    if not batches:
        raise ValueError(f"test: expected at least {RANKS * cell.batch} requests, got {test.num_rows}")
    job = Job(row, start)
    for _ in job.train(job.batches):
        pass
    job.flush()
    mine = np.arange(ranks.rank, RANKS * batches * cell.batch, RANKS)
    found = [torch.cat(job.predict(batch), 1) for batch in job.collated(np.split(mine, batches), test)]
    every = gather_rows(torch.cat(found), ranks.host_group)
    logits, labels = every[:, 0], every[:, every.shape[1] // 2]
    return auc(np.asarray(logits), np.asarray(labels))
