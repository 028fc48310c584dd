"""Changes are tried: each that is told was planned and counted, and one that fits does fit when it is made."""

from typing import Any

import pytest

from dist_rec.config import Config
from dist_rec.cost.batches import Batches, batches_of
from dist_rec.cost.changes import Change, Layout, _more_ranks, changes_of
from dist_rec.cost.dense_memory import DenseMemory, dense_memory
from dist_rec.cost.machine import machine_of
from dist_rec.cost.network import Cluster, network_of
from dist_rec.cost.rank_memory import RESERVE, RankMemory
from dist_rec.cost.sharded_memory import Sharded, sharded
from tests.cost.clusters import config_of
from tests.data.requests import make_schema

SCHEMA = make_schema(tables={"item": 2_000_000, "kind": 50, "user": 1000, "query": 10_000})
SAID = ("length=200", "candidates=2")


def _layout(config: Config, cluster: Cluster) -> Layout:
    assert cluster.machine.memory_bytes is not None
    memory_bytes = cluster.machine.memory_bytes

    def batches(of: Config) -> Batches:
        return batches_of(of, SCHEMA, SAID, cluster.gpus)

    def dense(of: Config, its: Batches) -> DenseMemory:
        return dense_memory(of, SCHEMA, its.largest, on_gpu=True)

    def layout(of: Config, where: Cluster) -> Sharded:
        return sharded(of, SCHEMA, where, memory_bytes)

    return Layout(config, SCHEMA, cluster, batches(config), batches, dense, layout)


def _cluster(nbytes: float, ranks: int = 2) -> Cluster:
    small = {"memory_bytes": nbytes / (1 - RESERVE), "context_bytes": 0.0}
    return Cluster(machine_of("h100-80gb").model_copy(update=small), network_of("nvlink"), ranks)


def _config(**changes: Any) -> Config:
    whole = {"item": {"sharding": ["table_wise"]}}
    return config_of(data={"batch_size": 64}, embedding={"dim": 128, "tables": whole}, **changes)


@pytest.fixture(scope="module")
def found() -> tuple[Layout, RankMemory, list[Change]]:
    of = _layout(_config(), _cluster(8e10))
    now = of.memory(of.config, of.cluster)
    return of, now, changes_of(of, now)


def test_what_saves_is_told_with_how_much(found: tuple[Layout, RankMemory, list[Change]]) -> None:
    _, now, changes = found
    for change in changes:
        assert change.saves == now.used - change.used and change.saves >= 0.01 * change.used
    assert changes == sorted(changes, key=lambda change: (not change.fits, change.used))


def test_a_table_on_one_rank_is_better_split_by_rows(found: tuple[Layout, RankMemory, list[Change]]) -> None:
    """Of 1 GB."""
    by_rows = [change for change in found[2] if "sharding=[row_wise]" in change.change]
    assert [change.change for change in by_rows] == ["embedding.tables.item.sharding=[row_wise]"]
    assert by_rows[0].saves is not None and by_rows[0].saves > 0.3 * 4 * 128 * 2_000_000


def test_a_change_that_fits_fits_when_it_is_made(found: tuple[Layout, RankMemory, list[Change]]) -> None:
    of, now, _ = found
    tight = _layout(of.config, _cluster(0.8 * now.used))
    told = [change for change in changes_of(tight, None) if change.change.startswith("embedding.dim")]
    narrow = of.config.embedding.model_copy(update={"dim": 64})
    made = tight.memory(of.config.model_copy(update={"embedding": narrow}), tight.cluster)
    assert [(change.change, change.used, change.fits) for change in told] == [
        ("embedding.dim=64 (another model)", made.used, made.fits)
    ]
    assert made.fits


@pytest.mark.parametrize(
    ("ranks", "net", "machine", "told"),
    [
        (2, "ib400", "h100-80gb", [4, 8, 16]),
        (6, "ib400", "h100-80gb", [24, 48]),  # 12 would leave a host half empty
        (16, "ib400", "h100-80gb", [32, 64, 128]),
        (1, "nvlink", "l4", []),
    ],
)
def test_more_ranks_are_those_that_the_network_can_join(ranks: int, net: str, machine: str, told: list[int]) -> None:
    of = _layout(_config(), Cluster(machine_of(machine), network_of(net), ranks))
    assert [cluster.gpus for _, _, cluster in _more_ranks(of)] == told


def test_what_a_cpu_cannot_have_is_not_told(found: tuple[Layout, RankMemory, list[Change]]) -> None:
    of, now, changes = found
    assert any("fused_uvm_caching" in change.change for change in changes)
    cpu = of.cluster.machine.model_copy(update={"device": "cpu", "host_memory_bytes": None})
    on_cpu = _layout(of.config, Cluster(cpu, network_of("ib400"), 2))
    assert not any("fused_uvm_caching" in change.change for change in changes_of(on_cpu, now))
