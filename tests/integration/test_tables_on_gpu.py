"""Embedding tables on a GPU: deduplicated lookups and their updates, and tables in host memory with a cache of rows."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from benchmarks.lookup.ways import DEVICE, HOST, PLAIN, Size, features_of, make_step
from dist_rec.embedding.cache import fused_lookups, unlock_cached_rows
from dist_rec.embedding.rows import fresh_rows
from dist_rec.training import evaluate
from dist_rec.training.purge import purge_rows
from dist_rec.training.purge_checkpoint import purge_checkpoint
from tests.helpers.closeness import assert_close_to_truth
from tests.helpers.devices import DEVICES, one_rank
from tests.training.runs import evaluate_split, load, losses, make_config, rows, run, write_dataset

SIZE = Size("row_wise", 16, 0.75, requests=20, length=30, rows=100)
LR, EPS = 0.01, 1e-8  # of row-wise Adagrad in benchmarks/lookup/ways.py


def _updated(before: Tensor, ids: Tensor, grad: Tensor) -> Tensor:
    """Rows of the events (N, D) after one step of row-wise Adagrad, in float64."""
    _, inverse = ids.unique(return_inverse=True)
    of_row = torch.zeros(int(inverse.max()) + 1, grad.shape[1], dtype=torch.float64).index_add(0, inverse, grad)
    scale = of_row.square().mean(dim=1, keepdim=True).sqrt() + EPS
    return before - (LR * of_row / scale)[inverse]


@pytest.mark.parametrize("way", [HOST, DEVICE])
@pytest.mark.parametrize("sharding", ["row_wise", "table_wise"])
@pytest.mark.parametrize("device", DEVICES)
def test_deduplicated_rows_and_their_update(device: str, sharding: Any, way: str) -> None:
    size = Size(sharding, SIZE.width, SIZE.duplicates, SIZE.requests, SIZE.length, SIZE.rows)
    ids, grad = torch.randint(0, size.rows, (size.events,)), torch.randn(size.events, size.width)
    found: dict[str, tuple[Tensor, Tensor]] = {}
    with one_rank(device) as ranks:
        for name in (PLAIN, way):
            look_up = make_step(name, size, features_of(ids, size), ranks.device)
            first = look_up()
            first.backward(grad.to(device))
            found[name] = first.detach().cpu(), look_up().detach().cpu()
    (before, plain), (mine, updated) = found[PLAIN], found[way]
    assert torch.equal(before, mine), "rows are copied, not computed"
    truth = _updated(before.double(), ids, grad.double())
    assert (truth - before).abs().max() > 0.1 * LR, "the update is seen"
    assert_close_to_truth(updated, truth, plain, factor=4.0)


class Locks:
    """Rows that every cache of a model has locked, before and after each call of `unlock_cached_rows`."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def unlock(self, model: nn.Module) -> None:
        before = _locked(model)
        unlock_cached_rows(model)
        self.seen.append((before, _locked(model)))


def _locked(model: nn.Module) -> int:
    counters: list[Any] = [of.lxu_cache_locking_counter for of in fused_lookups(model) if of.lock_cache_line]
    return sum(int(counter.sum()) for counter in counters)


@pytest.mark.parametrize("device", DEVICES)
def test_tables_in_host_memory_train_on_after_evaluations(tmp_path: Path, device: str) -> None:
    """The losses of tables on the device, through evaluations after every second step, and no row stays locked."""
    data, out = write_dataset(tmp_path / "data"), tmp_path
    usual: dict[str, Any] = {"run": {"epochs": 2, "eval_every": 2}, "checkpoint": {"every_steps": 2}}
    tables = {
        "user": {"kernel": ["fused_uvm_caching"], "cache_fraction": 0.1},
        "item": {"kernel": ["fused_uvm_caching"], "cache_fraction": 0.5},
    }
    start = out / "start" / "checkpoints" / "step-2"
    with one_rank("cpu") as ranks:
        run(make_config(data, out, **usual | {"run": {"epochs": 2, "eval_every": 2, "max_steps": 4}}), ranks, "start")
    config, locks = make_config(data, out, embedding={"tables": tables}, **usual), Locks()
    with one_rank(device) as ranks:
        run(make_config(data, out, **usual), ranks, "near", resume=start)
        with mock.patch.object(evaluate, "unlock_cached_rows", locks.unlock):
            run(config, ranks, "far", resume=start)
    near, far = losses(config, "near"), losses(config, "far")
    assert len(far) == 10 and far == pytest.approx(near, rel=1e-5), "the same rows, from another memory"
    assert len(rows(config, "far", "valid")) == 2 * 5 and len(locks.seen) == 6
    assert all(after == 0 for _, after in locks.seen)
    if device == "cuda":
        assert all(before > 0 for before, _ in locks.seen), "an evaluation locks rows, else nothing need free them"
        assert all(0 <= row["cache_hit_rate"] <= 1 for row in rows(config, "far"))


@pytest.mark.parametrize("device", DEVICES)
def test_a_purge_reaches_the_rows_in_caches(tmp_path: Path, device: str) -> None:
    """Lookups after a purge see fresh rows wherever the old ones were, and metrics are those of a purged checkpoint."""
    data, ids = write_dataset(tmp_path / "data"), torch.arange(0, 50, 3)
    tables = {"item": {"kernel": ["fused_uvm_caching"], "cache_fraction": 0.5}}
    more: dict[str, Any] = {"run": {"max_steps": 3}, "checkpoint": {"every_steps": 2}, "data": {"valid": []}}
    config, checkpoint = make_config(data, tmp_path, embedding={"tables": tables}, **more), tmp_path / "run/checkpoints"
    (tmp_path / "ids.txt").write_text("\n".join(map(str, ids.tolist())))
    with one_rank(device) as ranks:
        run(config, ranks)
        model, optimizer = load(config, ranks, checkpoint / "step-2")
        before = evaluate_split(config, model, ranks)  # puts rows into the caches
        purge_rows(model, {"item": ids}, optimizer, init_scale=0.05)
        (shard,) = model.state_dict()["embedding.collections.dim_8.embeddings.item.weight"].local_shards()
        assert torch.equal(shard.tensor[ids.to(device)].cpu(), fresh_rows("item", ids, 8, init_scale=0.05, seed=0))
        purged = evaluate_split(config, model, ranks)
        purge_checkpoint(checkpoint / "step-2", {"item": tmp_path / "ids.txt"}, out=tmp_path / "purged")
        model, _ = load(config, ranks, tmp_path / "purged")
        assert evaluate_split(config, model, ranks) == purged != before
