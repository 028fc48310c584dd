"""The memory of a rank by part, and of the fullest rank of a cluster, against what its device has.

The fullest moment of a step is at the start of the backward: all that it needs is there. Where the lookup of the rows,
before the forward, is fuller, the excess counts as part of the buffers of TorchRec.
"""

from dataclasses import dataclass

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.cost.dense_memory import DenseMemory
from dist_rec.cost.machine import Machine
from dist_rec.cost.network import Cluster
from dist_rec.cost.plan import ID_BYTES, ROW_BYTES
from dist_rec.cost.sharded_memory import Sharded, ShardedMemory
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.schema import Schema
from dist_rec.embedding.tables import table_dims

RESERVE = 0.06  # of a device: fragments of its allocator. Not measured
BATCHES_IN_FLIGHT = 3  # on the device: trained on, its ids on their way, copied
# NCCL: a communicator's rings and trees, and its buffers for one more peer of an all-to-all. Not measured.
COMMUNICATOR_BYTES, PEER_BYTES, COMMUNICATORS = 384 * 2**20, 4 * 2**20, 2


@dataclass(frozen=True)
class RankMemory:
    """Bytes of a rank's device by part, and what there is of it; `host`: of tables in host memory, of the rank that has
    most there, which may be another one."""

    parts: dict[str, int]
    host: int
    limit: int
    host_limit: int | None

    @property
    def used(self) -> int:
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        return self.used <= self.limit and (self.host_limit is None or self.host <= self.host_limit)


def device_bytes(machine: Machine) -> float:
    """Memory of a rank. Raises ConfigError for a machine that says nothing about it."""
    if machine.memory_bytes is None:
        raise ConfigError(f"machine {machine.name}: expected memory_bytes, the memory of one GPU, got none")
    return machine.memory_bytes


def fullest_rank(
    found: Sharded, dense: DenseMemory, batch: HostBatch, config: Config, schema: Schema, cluster: Cluster
) -> RankMemory:
    """Of the rank that has most, when every rank has this batch."""
    machine = cluster.machine
    own = rows_bytes(config, schema, batch)
    shares = found.memory(batch)
    ranks = [(of, _exchange(of, own, dense, schema, batch)) for of in shares]
    sharded, exchange = max(ranks, key=lambda of: of[0].tables + of[0].state + of[1])
    parts = {
        "tables": sharded.tables,
        "optimizer state of tables": sharded.state,
        "TorchRec's buffers of ids and rows": exchange,
        "dense weights": dense.weights,
        "dense gradients": dense.gradients,
        "dense gradients in flight": dense.in_flight,
        "optimizer state of dense weights": dense.state,
        "activations": dense.activations,
        "fragments of the allocator (assumed)": int(machine.fragments * dense.activations),
        "batches in flight": BATCHES_IN_FLIGHT * batch_bytes(schema, batch, machine),
        "collectives (assumed)": collective_bytes(config, dense, cluster),
        "process (assumed)": int(machine.context_bytes),
    }
    limit = int((1 - RESERVE) * device_bytes(machine))
    host = None if machine.host_memory_bytes is None else int(machine.host_memory_bytes)
    return RankMemory(parts, max(of.host for of in shares), limit, host)


def rows_bytes(config: Config, schema: Schema, batch: HostBatch) -> int:
    """Of the rows of a batch's distinct tokens, side by side as the model takes them."""
    dims, tables = table_dims(schema, config.embedding), schema.layout.tables
    return ROW_BYTES * sum(batch.num_unique[key] * dims[table] for key, table in tables.items())


def batch_bytes(schema: Schema, batch: HostBatch, machine: Machine) -> int:
    """On the device: its buffer and the ids, which are int64 there."""
    return batch.nbytes + ID_BYTES * sum(batch.num_unique[key] for key in schema.layout.tables)


def _exchange(sharded: ShardedMemory, own: int, dense: DenseMemory, schema: Schema, batch: HostBatch) -> int:
    """Ids of two batches, as they are sent and as they come; rows, once for the backward. The lookup has the rows that
    go to others, and its own as they come, in the order of the ids, and side by side."""
    ids = sum(ID_BYTES * batch.num_unique[key] for key in schema.layout.tables)
    lookup, backward = sharded.looked_up + 3 * own, own + dense.activations
    return 2 * (2 * ids + sharded.ids) + own + max(lookup - backward, 0)


def collective_bytes(config: Config, dense: DenseMemory, cluster: Cluster) -> int:
    """Of the libraries of collectives. gloo reduces in a copy of the largest bucket."""
    if cluster.gpus == 1:
        return 0
    if cluster.machine.device == "cpu":
        return min(dense.gradients, int(config.optim.bucket_cap_mb * 1e6))
    return COMMUNICATORS * COMMUNICATOR_BYTES + PEER_BYTES * (cluster.gpus - 1)


def memory_assumptions(cluster: Cluster) -> list[str]:
    """What is assumed of memory, in words."""
    machine = cluster.machine
    if machine.device == "cpu":
        collectives = "gloo takes a copy of the largest bucket of dense gradients"
    else:
        collectives = (
            f"NCCL takes {COMMUNICATOR_BYTES / 2**20:.0f} MiB for each of {COMMUNICATORS} communicators and "
            f"{PEER_BYTES / 2**20:.0f} MiB for each other rank of an all-to-all; not measured"
        )
    fragments = (
        f" Its allocator holds {machine.fragments:.0%} more than activations, as another machine's did."
        if machine.fragments
        else ""
    )
    return [
        f"{RESERVE:.0%} of the memory stays free for fragments of the allocator; not measured.",
        f"{collectives}.",
        f"A process takes {machine.context_bytes / 2**20:,.0f} MiB besides its tensors; "
        f"{'one measurement of another machine' if machine.device == 'cpu' else 'not measured'}.{fragments}",
        "All ranks have the batch at once; what an operator takes and gives back inside itself is not counted.",
        "Not counted: a teacher, evaluation (data.eval_batch_size) and the writing of checkpoints.",
    ]
