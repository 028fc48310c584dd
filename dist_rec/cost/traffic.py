"""What every collective of a step moves, in bytes of one rank."""

from dataclasses import dataclass

from dist_rec.config import Config
from dist_rec.cost.dense_memory import DenseMemory
from dist_rec.cost.sharded_memory import Sharded
from dist_rec.data.host_batch import HostBatch

FLAG_BYTES, FLAGS_BESIDE = 4, 3  # of `optim/pending_reduce.py`: one int32 per parameter, and three more
NUMBER_BYTES = 8  # of `Ranks.total`: float64


@dataclass(frozen=True)
class Traffic:
    """A collective of a step: bytes that a rank gives to it on average, and the most that one gives or gets."""

    name: str
    mean: int
    fullest: int


def traffic_of(found: Sharded, dense: DenseMemory, batch: HostBatch, config: Config) -> list[Traffic]:
    """Of all collectives of a step, when every rank has this batch; none of one rank."""
    if found.ranks == 1:
        return []
    shares = found.memory(batch)
    ids, rows = [of.ids for of in shares], [of.looked_up for of in shares]
    reduced = dense.gradients // (2 if config.optim.compress == "bf16" else 1)
    hosts = FLAG_BYTES * (dense.parameters + FLAGS_BESIDE) + NUMBER_BYTES * (len(batch.num_targets) + 1)
    return [
        Traffic("all-to-all of ids", sum(ids) // len(ids), max(ids)),
        Traffic("all-to-all of rows", sum(rows) // len(rows), max(rows)),
        Traffic("all-to-all of their gradients", sum(rows) // len(rows), max(rows)),
        Traffic("all-reduce of dense gradients", reduced, reduced),
        Traffic("all-reduces of numbers of the hosts", hosts, hosts),
    ]
