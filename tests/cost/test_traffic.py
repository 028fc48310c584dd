"""What moves, by hand."""

from dist_rec.cost.dense_memory import DenseMemory
from dist_rec.cost.plan import Step
from dist_rec.cost.requests import Described, described
from dist_rec.cost.sharded_memory import sharded
from dist_rec.cost.stages import StepCount
from dist_rec.cost.traffic import traffic_of
from tests.cost.clusters import SCHEMA, cluster_of, config_of

DENSE = DenseMemory(weights=1000, gradients=1000, in_flight=0, state=0, activations=0, parameters=7)


def test_ids_and_rows_are_those_of_the_time_of_a_step() -> None:
    config = config_of(embedding={"tables": {name: {"sharding": ["row_wise"]} for name in SCHEMA.tables}})
    of = described(SCHEMA, 8, None, Described(length=30))
    batch = of.batch(SCHEMA)
    step = Step.of(StepCount((), 0), SCHEMA, config, of, batch)
    found = traffic_of(sharded(config, SCHEMA, cluster_of(8), 80 * 2**30), DENSE, batch, config)
    ids, rows, gradients, dense, hosts = found
    assert abs(ids.mean - step.id_bytes) <= 8 and abs(rows.mean - step.row_bytes) <= 8
    assert (gradients.mean, gradients.fullest) == (rows.mean, rows.fullest) and rows.fullest >= rows.mean
    assert dense.mean == 1000 and hosts.mean == 4 * (7 + 3) + 8 * (len(batch.num_targets) + 1)
    half = config.model_copy(update={"optim": config.optim.model_copy(update={"compress": "bf16"})})
    assert traffic_of(sharded(half, SCHEMA, cluster_of(8), 80 * 2**30), DENSE, batch, half)[3].mean == 500


def test_a_single_rank_sends_nothing() -> None:
    config = config_of()
    batch = described(SCHEMA, 8, None, Described(length=3)).batch(SCHEMA)
    assert traffic_of(sharded(config, SCHEMA, cluster_of(1), 80 * 2**30), DENSE, batch, config) == []
