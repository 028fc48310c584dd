"""Deletes what rows of embedding tables have learned: in a running job (`purge_rows`), or in a checkpoint
(purge_checkpoint.py), with the same bits as the result.

A purged row is what a new id starts with. This mitigates; it is no exact unlearning: dense weights and other rows keep
what they learned from the events (docs/purge.md)."""

import hashlib
from collections.abc import Mapping
from datetime import datetime, timezone

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline.runtime_forwards import BaseForward

from dist_rec.common.provenance import versions
from dist_rec.embedding.rows import check_rows, reset_rows, table_of, weights_of_tables
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.training.made_with import PurgeRecord


def purge_rows(
    model: nn.Module,
    ids: Mapping[str, Tensor],
    optimizer: HybridOptimizer | None = None,
    *,
    init_scale: float,
    seed: int = 0,
    step: int = 0,
) -> list[PurgeRecord]:
    """Resets rows of tables and all of their state; call it on every rank with the same ids, between two steps and with
    nothing in the pipeline.

    Of every row, on every shard: the weights become `fresh_rows` (no number of the old row enters), the fused
    optimizer's state becomes zeros, as FBGEMM starts it, and so does the dense optimizer's where the table is
    data-parallel. The gradient in flight is dropped as a whole, after its all-reduce: it was computed with these rows,
    also that of the dense weights, and applying it would need a step that a checkpoint on disk cannot make. It counts
    as `skipped`, so schedules go on as planned. So do `p.grad`, the residual of `compress` and the histories of a
    correction. Rows in caches of a GPU are written back first and dropped.

    What was read ahead is not the model's: end the pipeline (`pipeline.progress` until StopIteration, then `detach()`),
    and continue with a new loader, whose filter leaves the events out.

    Args:
        model: a `DistributedModelParallel` with any sharding, deduplicated collections too, or any module around
            TorchRec's collections.
        ids: table -> (n,) int64 rows.
        optimizer: the one of the model; None if it has none.
        init_scale: of the tables, `embedding.init_scale` of a recipe.
        seed: of the fresh rows.
        step: for the record.

    Returns:
        A record for each table, for `MadeWith.purged` of the checkpoints to come.

    Comm: one all-gather of 32 bytes over the default group, if there is one; it also waits for all ranks.

    Raises:
        RuntimeError: while a pipeline is attached, in the middle of an accumulation, or for ids that differ by rank.
        ValueError: for an unknown table, a row that is not there, or data-parallel tables without their optimizer.
    """
    _check_drained(model)
    ids = {table: torch.unique(of.cpu().long()) for table, of in ids.items() if len(of)}
    _check_same(ids, model)
    weights = weights_of_tables(model)
    check_rows(weights, ids)
    names = {name: ids[table] for name in weights if (table := table_of(name)) in ids}
    if optimizer is not None:
        optimizer.forget(names)
    elif isinstance(model, DistributedModelParallel):
        _check_all_sharded(weights, names)
    reset_rows(model, ids, init_scale=init_scale, seed=seed)
    return [record_of(table, of, seed=seed, step=step) for table, of in ids.items()]


def record_of(table: str, ids: Tensor, *, seed: int, step: int) -> PurgeRecord:
    """What is kept of a purge of rows `ids` (n,) int64: not the ids, but what proves which they were."""
    return PurgeRecord(
        table=table,
        ids=len(torch.unique(ids)),
        sha256=_digest(ids).hex(),
        seed=seed,
        step=step,
        time=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        versions=versions(),
    )


def _digest(ids: Tensor) -> bytes:
    """SHA-256 of the distinct ids in increasing order, as text with one id per line."""
    return hashlib.sha256("".join(f"{i}\n" for i in torch.unique(ids).tolist()).encode()).digest()


def _check_drained(model: nn.Module) -> None:
    """Raises RuntimeError if a pipeline of TorchRec has the model: batches in flight have looked up rows already."""
    for name, module in model.named_modules():
        if isinstance(vars(module).get("forward"), BaseForward):
            raise RuntimeError(
                f"purge_rows: a pipeline is attached to {name or 'the model'}, and batches in flight may hold the ids; "
                "expected its end first: progress() until StopIteration, then detach()"
            )


def _check_same(ids: Mapping[str, Tensor], model: nn.Module) -> None:
    """Raises RuntimeError if the ranks were given different ids. Comm: one all-gather of 32 bytes."""
    if not dist.is_initialized():
        return
    device = next(model.parameters()).device
    told = b"".join(name.encode() + b"\0" + _digest(ids[name]) for name in sorted(ids))
    mine = torch.frombuffer(bytearray(hashlib.sha256(told).digest()), dtype=torch.uint8).to(device)
    found = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(found, mine)
    if differing := [rank for rank, of in enumerate(found) if not torch.equal(of, found[0])]:
        raise RuntimeError(f"purge_rows: ranks 0 and {differing[0]} were given different ids; expected the same on all")


def _check_all_sharded(weights: Mapping[str, Tensor], names: Mapping[str, Tensor]) -> None:
    """Raises ValueError for a data-parallel table, whose state only its dense optimizer has."""
    for name in names:
        if not isinstance(weights[name], ShardedTensor):
            raise ValueError(
                f"purge_rows: {name} is data-parallel; expected optimizer=, the HybridOptimizer that has its state"
            )
