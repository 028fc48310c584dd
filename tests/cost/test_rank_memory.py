"""Parts of the memory of a rank, and what it is held against."""

from dataclasses import replace

import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.cost.dense_memory import dense_memory
from dist_rec.cost.machine import Machine
from dist_rec.cost.rank_memory import (
    RESERVE,
    RankMemory,
    collective_bytes,
    device_bytes,
    fullest_rank,
    memory_assumptions,
    rows_bytes,
)
from dist_rec.cost.sharded_memory import sharded
from tests.cost.clusters import H100, SCHEMA, batch_of, cluster_of, config_of


def _memory(machine: Machine = H100, ranks: int = 8) -> RankMemory:
    config = config_of()
    batch, cluster = batch_of(config), cluster_of(ranks, machine)
    found = sharded(config, SCHEMA, cluster, 80 * 2**30)
    dense = dense_memory(config, SCHEMA, batch, on_gpu=True)
    return fullest_rank(found, dense, batch, config, SCHEMA, cluster)


def test_the_sum_is_held_against_the_memory_less_the_reserve() -> None:
    found = _memory()
    assert found.used == sum(found.parts.values()) and found.fits
    assert found.limit == pytest.approx((1 - RESERVE) * H100.memory_bytes)  # pyright: ignore[reportOperatorIssue]
    assert found.parts["tables"] > 0 and found.parts["activations"] > 0


@pytest.mark.parametrize(("more", "fits"), [(1024, True), (-1024, False)])
def test_it_fits_up_to_the_last_bytes(more: int, fits: bool) -> None:
    used = _memory().used
    just = H100.model_copy(update={"memory_bytes": (used + more) / (1 - RESERVE)})
    assert _memory(just).fits is fits


def test_host_memory_counts_too() -> None:
    found = replace(_memory(), host=100, host_limit=100)
    assert found.fits and not replace(found, host=101).fits and replace(found, host=101, host_limit=None).fits


def test_host_memory_is_of_the_rank_that_has_most_there() -> None:
    """The cached table lies on one rank, and the larger one that is not cached on the other."""
    whole = {"item": {"sharding": ["table_wise"]}, "query": {"sharding": ["table_wise"]}}
    whole["query"] = {"sharding": ["table_wise"], "kernel": ["fused_uvm_caching"]}
    config = config_of(embedding={"dim": 64, "tables": whole})
    batch, cluster = batch_of(config), cluster_of(2)
    found = sharded(config, SCHEMA, cluster, 80 * 2**30)
    shares = found.memory(batch)
    assert {of.host > 0 for of in shares} == {True, False}
    dense = dense_memory(config, SCHEMA, batch, on_gpu=True)
    assert fullest_rank(found, dense, batch, config, SCHEMA, cluster).host == max(of.host for of in shares)


def test_buffers_have_at_least_the_rows() -> None:
    rows = rows_bytes(config_of(), SCHEMA, batch_of(config_of()))
    assert _memory().parts["TorchRec's buffers of ids and rows"] > rows > 0


def test_what_is_assumed_of_a_process_and_of_collectives() -> None:
    dense = dense_memory(config_of(), SCHEMA, batch_of(config_of()), on_gpu=True)
    alone, eight, sixteen = (collective_bytes(config_of(), dense, cluster_of(ranks)) for ranks in (1, 8, 16))
    assert alone == 0 < eight < sixteen
    cpu = H100.model_copy(update={"device": "cpu", "context_bytes": 5 * 2**20, "fragments": 0.5})
    assert collective_bytes(config_of(), dense, cluster_of(2, cpu)) == dense.weights
    parts = _memory(cpu, ranks=2).parts
    assert parts["process (assumed)"] == 5 * 2**20
    assert parts["fragments of the allocator (assumed)"] == parts["activations"] // 2
    assert "5 MiB" in " ".join(memory_assumptions(cluster_of(2, cpu)))
    assert "NCCL" in " ".join(memory_assumptions(cluster_of(8)))


def test_a_machine_without_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match="machine h100-80gb: expected memory_bytes"):
        device_bytes(H100.model_copy(update={"memory_bytes": None}))
