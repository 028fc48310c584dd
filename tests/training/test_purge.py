"""Purged rows in a running job: on every rank, in every kind of state, with nothing left in flight."""

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from dist_rec.config import Config
from dist_rec.data.collate import collate
from dist_rec.embedding.rows import fresh_rows
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.training.purge import purge_rows, record_of
from tests.data.requests import make_rows, make_schema, make_table
from tests.embedding.sharded import local_batch, shard, sharded_config
from tests.helpers.ranks import run_ranks
from tests.models.batches import Row

TABLES: dict[str, Any] = {"item": {"sharding": ["row_wise"]}, "kind": {"sharding": ["data_parallel"]}}
PURGED = {"item": torch.tensor([3, 7, 30]), "kind": torch.tensor([1, 4])}
KIND = "embedding.replicated.kind.weight"
FRESH = {"init_scale": 0.05, "seed": 11}


def _config() -> Config:
    return sharded_config(tables=TABLES)


def _steps(number: int, seed: int) -> list[list[list[Row]]]:
    return [[make_rows(4, seed + 2 * step), make_rows(4, seed + 2 * step + 1)] for step in range(number)]


def _trained(**options: Any) -> tuple[Any, HybridOptimizer]:
    """A model after three steps, with a gradient in flight if the updates are delayed."""
    dmp = shard(_config(), ddp=False)
    adamw = {"dense": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.0)}
    hybrid = HybridOptimizer(dmp, **{**adamw, "warmup_sync_steps": 0, **options})
    for rows in _steps(3, 0):
        _step(dmp, hybrid, rows)
    return dmp, hybrid


def _step(dmp: Any, hybrid: HybridOptimizer, rows: list[list[Row]]) -> None:
    hybrid.zero_grad()
    dmp(local_batch(rows, _config()))[0].backward()
    hybrid.step()


def _state(hybrid: HybridOptimizer) -> dict[str, Tensor]:
    """Of the data-parallel table, and whatever comes from gradients of any parameter."""
    tree = hybrid.state_dict()
    found = {f"dense {key}": value.clone() for key, value in tree["dense"]["state"][KIND].items()}
    for part in ("in_flight", "last"):
        found |= {f"{part} {name} {key}": v for name, of in tree.get(part, {}).items() for key, v in of.items()}
    return found | {f"residual {name}": value for name, value in tree.get("residual", {}).items()}


def _purge_in_flight(options: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor], list[Tensor], list[int]]:
    dmp, hybrid = _trained(**options)
    before, counts = _state(hybrid), [hybrid.steps, hybrid.applied, hybrid.skipped]
    weights = {name: p.detach().clone() for name, p in dmp.named_parameters() if name.startswith("ranker")}
    purge_rows(dmp, PURGED, hybrid, **FRESH)
    assert all(torch.equal(p, weights[name]) for name, p in dmp.named_parameters() if name in weights)
    after, table = _state(hybrid), dmp.state_dict()[KIND].clone()
    counts += [hybrid.steps, hybrid.applied, hybrid.skipped]
    buffers = [of for bucket in hybrid.all_reduce._buckets for of in bucket._free] if hybrid.all_reduce else []
    assert all((buffer == 0).all() for buffer in buffers), "freed buffers hold gradients"
    hybrid.flush()
    assert torch.equal(dmp.state_dict()[KIND], table), "something was still in flight"
    return before, after, [table, fresh_rows("kind", PURGED["kind"], 8, **FRESH)], counts


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize(
    "options",
    [
        {"dense_update": "delayed"},
        {"dense_update": "sync"},
        {"dense_update": "delayed", "correction": "extrapolate", "compress": "bf16", "health_every": 2},
    ],
    ids=["delayed", "sync", "corrected"],
)
def test_no_row_no_state_and_nothing_in_flight(world_size: int, options: dict[str, Any]) -> None:
    for before, after, (table, fresh), counts in run_ranks(_purge_in_flight, world_size, options):
        purged = torch.zeros(5, dtype=torch.bool).index_fill(0, PURGED["kind"], True)
        assert torch.equal(table[PURGED["kind"]], fresh)
        for name in ("dense exp_avg", "dense exp_avg_sq"):
            assert before[name][purged].any() and not after[name][purged].any(), name
            assert torch.equal(before[name][~purged], after[name][~purged]), name
        assert torch.equal(before["dense step"], after["dense step"])
        gradients = [name for name in after if not name.startswith("dense")]
        assert not any(after[name].any() for name in gradients), "a gradient is left"
        delayed = options["dense_update"] == "delayed"
        assert any(before[name].any() for name in gradients) == delayed, "there was one to lose"
        steps, applied, skipped, *now = counts
        assert [steps, applied, skipped] == [3, 2 if delayed else 3, 0]
        assert now == [3, applied, int(delayed)], "a dropped gradient counts as skipped"


def _same_as_never_learned() -> tuple[bool, bool]:
    """Trains, purges all rows of a table, trains on; against a model whose table starts fresh at that point."""
    ids = {"kind": torch.arange(5)}
    found = []
    for purged in (True, False):
        dmp, hybrid = _trained(dense_update="delayed")
        if purged:
            purge_rows(dmp, ids, hybrid, **FRESH)
        else:
            hybrid.forget({KIND: torch.arange(5)})
            with torch.no_grad():
                dmp.module.embedding.replicated["kind"].weight.copy_(fresh_rows("kind", ids["kind"], 8, **FRESH))
        for rows in _steps(2, 50):
            _step(dmp, hybrid, rows)
        hybrid.flush()
        found.append(dmp.state_dict()[KIND].clone())
        hybrid.close()
    return torch.equal(*found), bool((found[0] != fresh_rows("kind", ids["kind"], 8, **FRESH)).any())


def test_training_goes_on_after_a_purge() -> None:
    assert run_ranks(_same_as_never_learned, 2) == [(True, True)] * 2


def _host_batch(rows: list[list[Row]]) -> Any:
    batch = collate(make_table(rows[dist.get_rank()]), make_schema())
    batch.set_candidates_per_rank([4.0])
    return batch


def _refused() -> dict[str, str]:
    dmp, hybrid = _trained(dense_update="delayed")
    mine = torch.tensor([dist.get_rank()])
    told = {}

    def note(name: str, *arguments: Any) -> None:
        try:
            purge_rows(*arguments, **FRESH)
        except (RuntimeError, ValueError) as error:
            told[name] = str(error)

    note("rank", dmp, {"item": mine}, hybrid)
    note("table", dmp, {"kinds": torch.tensor([0])}, hybrid)
    note("row", dmp, {"item": torch.tensor([50])}, hybrid)
    note("optimizer", dmp, PURGED, None)
    hybrid.flush()
    pipeline = TrainPipelineSparseDist(dmp, hybrid, torch.device("cpu"))
    batches = iter([_host_batch(rows) for rows in _steps(3, 90)])
    pipeline.progress(batches)
    note("pipeline", dmp, PURGED, hybrid)
    while True:
        try:
            pipeline.progress(batches)
        except StopIteration:
            break
    note("still attached", dmp, PURGED, hybrid)
    pipeline.detach()
    purge_rows(dmp, PURGED, hybrid, **FRESH)
    return told


def test_what_cannot_be_purged_is_said() -> None:
    for told in run_ranks(_refused, 2):
        assert "ranks 0 and 1 were given different ids" in told["rank"]
        assert "table kinds: the model has no such table" in told["table"]
        assert "table item: expected ids from 0 to 49, got 50" in told["row"]
        assert "data-parallel; expected optimizer=" in told["optimizer"]
        for name in ("pipeline", "still attached"):
            assert "a pipeline is attached" in told[name] and "then detach()" in told[name]


def _in_an_accumulation() -> str:
    dmp, hybrid = _trained(dense_update="delayed", accumulation_steps=2)
    try:
        purge_rows(dmp, PURGED, hybrid, **FRESH)
    except RuntimeError as error:
        return str(error)
    return ""


def test_not_in_the_middle_of_an_accumulation() -> None:
    (told,) = run_ranks(_in_an_accumulation, 1)
    assert "1 of 2 gradients are added up" in told


def test_a_record_says_which_ids_without_them() -> None:
    record = record_of("item", torch.tensor([7, 3, 30, 3]), seed=1, step=40)
    assert record.sha256 == record_of("item", torch.tensor([30, 3, 7]), seed=2, step=50).sha256
    # printf '3\n7\n30\n' | sha256sum
    assert record.sha256 == "d1c1e5f31f9f824dd369f9dce841b9223f1917067f5220231db75f35ce937413"
    assert record.sha256 != record_of("item", torch.tensor([3, 7]), seed=1, step=40).sha256
    assert record.table == "item" and record.ids == 3 and record.step == 40 and "torch" in record.versions
