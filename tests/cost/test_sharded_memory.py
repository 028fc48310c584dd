"""Plans for clusters that are not here: every byte of every table is on some rank, and ranks do not take more when
there are more of them."""

import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.cost.sharded_memory import NoPlan, Sharded, sharded
from tests.cost.clusters import H100, SCHEMA, batch_of, cluster_of, config_of

GIB = 2**30
SHARDINGS = ("row_wise", "table_wise", "column_wise")


def _config(sharding: str = "row_wise", dim: int = 128) -> Config:
    names = {name: {"sharding": [sharding]} for name in SCHEMA.tables}
    return config_of(embedding={"dim": dim, "tables": names, "optimizer": "rowwise_adagrad"})


def _sharded(config: Config, ranks: int, gib: float = 80.0) -> Sharded:
    return sharded(config, SCHEMA, cluster_of(ranks), gib * GIB)


@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("ranks", [1, 8])
def test_all_ranks_together_have_all_tables(sharding: str, ranks: int) -> None:
    config = _config(sharding, dim=256)
    found = _sharded(config, ranks)
    batch = batch_of(config)
    of_ranks = found.memory(batch)
    used = set(SCHEMA.layout.tables.values())
    assert sum(of.tables for of in of_ranks) == sum(4 * 256 * SCHEMA.rows_of(name) for name in used)
    plans = found.tables()
    assert {plan.name for plan in plans} == used and {plan.sharding for plan in plans} == {sharding}
    assert sum(plan.total for plan in plans) == sum(of.tables + of.state for of in of_ranks)
    if sharding != "column_wise":  # a shard of columns has a state for every row
        assert sum(of.state for of in of_ranks) == sum(4 * SCHEMA.rows_of(name) for name in used)
    for plan in plans:
        assert plan.smallest <= plan.total / plan.ranks <= plan.largest


def test_more_ranks_never_have_more_of_tables_by_rows() -> None:
    sizes = [max(of.tables for of in _sharded(_config(), n).memory(batch_of(_config()))) for n in (1, 2, 4, 8, 16, 32)]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] > 20 * sizes[-1]


def test_the_owner_of_a_whole_table_looks_up_for_all_ranks() -> None:
    config = _config("table_wise")
    batch = batch_of(config)
    one, eight = (_sharded(config, ranks).memory(batch) for ranks in (1, 8))
    assert sum(of.looked_up for of in eight) == 8 * one[0].looked_up
    assert max(of.looked_up for of in eight) > 2 * one[0].looked_up
    by_rows = _sharded(_config(), 8).memory(batch)
    # 50 rows in parts of 7 are not even.
    assert max(of.looked_up for of in by_rows) == pytest.approx(one[0].looked_up, rel=0.05)


def test_a_cached_table_is_in_host_memory() -> None:
    tables = {"item": {"kernel": ["fused_uvm_caching"], "cache_fraction": 0.25}}
    config = config_of(embedding={"dim": 128, "tables": tables})
    found = _sharded(config, 2)
    (item,) = (plan for plan in found.tables() if plan.name == "item")
    assert item.kernel == "fused_uvm_caching" and item.host == 40_000 * (4 * 128 + 4)
    assert 0.25 * 4 * 128 * 40_000 < item.total < 0.35 * 4 * 128 * 40_000
    assert sum(of.host for of in found.memory(batch_of(config))) == item.host


def test_no_plan_is_one_sentence() -> None:
    with pytest.raises(NoPlan, match=r"no sharding plan: the tables .* are 0\.0 GiB, and there are 0\.01 GiB on each"):
        _sharded(_config(), 1, gib=0.01)
    with pytest.raises(NoPlan, match=r"embedding.tables.item: sharding: \[table_wise\] puts .* expected row_wise"):
        _sharded(_config("table_wise"), 8, gib=0.01)


def test_a_model_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"split=99"):
        sharded(config_of(model={"name": "hyformer", "non_sequential": {"split": 99}}), SCHEMA, cluster_of(1), 80 * GIB)


def test_a_cpu_has_no_memory_beside_its_own() -> None:
    cpu = H100.model_copy(update={"device": "cpu", "host_memory_bytes": None})
    found = sharded(_config(), SCHEMA, cluster_of(2, cpu), 4 * GIB)
    assert {shard.kernel for shard in found.shards} <= {"fused", "dense"}
