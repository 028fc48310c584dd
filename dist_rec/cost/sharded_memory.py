"""What the tables take on every rank of a cluster that is not here, and what travels to and from them.

The plan is TorchRec's own, for so many devices of that size. A rank looks up, for all ranks, the rows of its shards.

Legend: n ranks, U distinct ids of a table in a rank's batch, D columns.
"""

import logging
from collections import Counter
from dataclasses import dataclass

import torch

from dist_rec.common.open_ids import AdmissionConfig
from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.cost.machine import Machine
from dist_rec.cost.network import Cluster
from dist_rec.cost.plan import ID_BYTES, ROW_BYTES
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.schema import Schema
from dist_rec.embedding.dynamic_ids import map_bytes
from dist_rec.embedding.optimizers import FusedOptimizer
from dist_rec.embedding.plan import Devices, fuse_optimizer, plan_for
from dist_rec.embedding.shards import FP32, Shard, shards_of
from dist_rec.embedding.tables import table_dims
from dist_rec.models.build import build_model
from dist_rec.registry import FUSED_OPTIMIZERS

KEPT_FOR_DENSE = 0.15  # of a device's memory: TorchRec's planner leaves it to everything but tables


class NoPlan(ConfigError):
    """No plan puts the tables on the ranks; the message says which table does not fit, or how much is too much."""


@dataclass(frozen=True)
class TablePlan:
    """A table on the ranks, bytes with optimizer state: `largest` and `smallest` of the device memory of a rank that
    has a part, `total` of all, `host` of all in host memory."""

    name: str
    rows: int
    dim: int
    sharding: str
    kernel: str
    ranks: int
    largest: int
    smallest: int
    total: int
    host: int


@dataclass(frozen=True)
class ShardedMemory:
    """Bytes of one rank: `tables`, their optimizer `state`, both on the device; `host`, both in host memory."""

    tables: int
    state: int
    host: int
    ids: int
    looked_up: int


@dataclass(frozen=True)
class Sharded:
    """All shards of a cluster's tables."""

    config: Config
    schema: Schema
    ranks: int
    shards: tuple[Shard, ...]

    def tables(self) -> list[TablePlan]:
        """Of every sharded table, largest first."""
        found = []
        for name in dict.fromkeys(shard.table for shard in self.shards):
            shards = [shard for shard in self.shards if shard.table == name]
            of_rank: Counter[int] = Counter()
            for shard in shards:
                of_rank[shard.rank] += shard.device_bytes + self._state(shard, on_device=True)
            host = sum(self._host(shard) for shard in shards)
            found.append(
                TablePlan(
                    name=name,
                    rows=self.schema.rows_of(name),
                    dim=table_dims(self.schema, self.config.embedding)[name],
                    sharding=shards[0].sharding,
                    kernel=shards[0].kernel,
                    ranks=len(of_rank),
                    largest=max(of_rank.values()),
                    smallest=min(of_rank.values()),
                    total=of_rank.total(),
                    host=host,
                )
            )
        return sorted(found, key=lambda table: -(table.total + table.host))

    def memory(self, batch: HostBatch) -> list[ShardedMemory]:
        """Of every rank, when all ranks have such a batch."""
        unique = _unique(self.schema, batch)
        found = [[0] * 5 for _ in range(self.ranks)]
        for shard in self.shards:
            wanted = self.ranks * unique[shard.table] * shard.rows / self.schema.rows_of(shard.table)
            added = (
                shard.device_bytes,
                self._state(shard, on_device=True),
                self._host(shard),
                round(ID_BYTES * wanted),
                round(ROW_BYTES * wanted * shard.dim),
            )
            found[shard.rank] = [a + b for a, b in zip(found[shard.rank], added, strict=True)]
        return [ShardedMemory(*of) for of in found]

    def _state(self, shard: Shard, *, on_device: bool) -> int:
        """FBGEMM keeps the state of rows in host memory there, too. With the map of the ids of a dynamic table."""
        if on_device == shard.in_host_memory:
            return 0
        optimizer: FusedOptimizer = FUSED_OPTIMIZERS.make(self.config.embedding.optimizer)
        return FP32 * optimizer.state_numel(shard.rows, shard.dim) + self._ids(shard)

    def _ids(self, shard: Shard) -> int:
        if self.schema.open_ids.get(shard.table) != "dynamic":
            return 0
        override = self.config.embedding.tables.get(shard.table)
        admission = None if override is None else override.admission
        return map_bytes(shard.rows, admission or AdmissionConfig())

    def _host(self, shard: Shard) -> int:
        return shard.nbytes + self._state(shard, on_device=False) if shard.in_host_memory else 0


def _unique(schema: Schema, batch: HostBatch) -> Counter[str]:
    """U by table."""
    found: Counter[str] = Counter()
    for key, table in schema.layout.tables.items():
        found[table] += batch.num_unique[key]
    return found


def sharded(config: Config, schema: Schema, cluster: Cluster, memory_bytes: float) -> Sharded:
    """The plan of a cluster whose devices have so much memory. Raises NoPlan if there is none, and ConfigError for a
    model that cannot be."""
    machine = cluster.machine
    model = build_model(schema, config, torch.device("meta"))
    fuse_optimizer(model.embedding.collections, config.embedding, torch.device(machine.device))
    devices = Devices(machine.device, cluster.gpus, cluster.in_host, *_capacities(machine, memory_bytes))
    batch = config.data.batch_size or config.data.batch_events
    assert batch is not None, "one of them is always given"
    log = logging.getLogger("torchrec")  # warns of plans, once for every one
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        plan = plan_for(model, config.embedding, devices, batch)
    except ConfigError as error:
        raise NoPlan(_why_not(config, schema, cluster, memory_bytes)) from error
    finally:
        log.setLevel(level)
    return Sharded(config, schema, cluster.gpus, tuple(shards_of(plan)))


def _capacities(machine: Machine, memory_bytes: float) -> tuple[int | None, int]:
    if machine.device == "cpu":
        return None, int(memory_bytes)
    return int(memory_bytes), int(machine.host_memory_bytes or 0)


def _why_not(config: Config, schema: Schema, cluster: Cluster, memory_bytes: float) -> str:
    """One sentence: the largest table that is bound to one rank and does not fit there, or the sum of all tables."""
    optimizer: FusedOptimizer = FUSED_OPTIMIZERS.make(config.embedding.optimizer)
    dims, room = table_dims(schema, config.embedding), (1 - KEPT_FOR_DENSE) * memory_bytes / 2**30
    sizes = {
        name: FP32 * (rows * dims[name] + optimizer.state_numel(rows, dims[name])) / 2**30
        for name in set(schema.layout.tables.values())
        if (rows := schema.rows_of(name)) and not config.embedding.is_replicated(name)
    }
    kept = f"{room:,.2f} GiB on each of {cluster.gpus} ranks, {KEPT_FOR_DENSE:.0%} of whose memory the planner keeps"
    for name, gib in sorted(sizes.items(), key=lambda of: -of[1]):
        override = config.embedding.tables.get(name)
        bound = override is not None and override.sharding is not None and set(override.sharding) == {"table_wise"}
        if bound and gib > room:
            return (
                f"embedding.tables.{name}: sharding: [table_wise] puts {gib:,.1f} GiB on one rank, and there are "
                f"{kept} for everything else; expected row_wise"
            )
    return (
        f"no sharding plan: the tables with their optimizer state are {sum(sizes.values()):,.1f} GiB, and there are "
        f"{kept} for everything else"
    )
