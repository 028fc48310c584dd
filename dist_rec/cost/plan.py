"""A step on many GPUs: its stages on a described machine, what travels between ranks, and what hides behind what.

The pipeline of training (`training/pipeline.py`) overlaps the copy to the device and the all-to-all of ids with the
step before; a delayed update overlaps its all-reduce with the step after. Rows travel in the step itself, forward and
backward. So a step takes its own work, or the longest of what hides behind it.
"""

from dataclasses import dataclass

from dist_rec.config import Config
from dist_rec.cost.machine import Machine
from dist_rec.cost.network import Cluster, imbalance
from dist_rec.cost.predict import stages_of
from dist_rec.cost.requests import Requests
from dist_rec.cost.stages import StepCount
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.schema import Schema
from dist_rec.embedding.tables import table_dims

BY_EVENTS = ("tokens", "layers", "ffn", "backward")  # stages whose work follows the events of a batch
ID_BYTES, ROW_BYTES = 8, 4  # TorchRec sends ids as int64 and rows as fp32


@dataclass(frozen=True)
class Step:
    """One rank's step: its operators, and what moves. `spread`: standard deviation of the events of a batch, over
    steps and ranks."""

    count: StepCount
    requests: int
    candidates: int
    events: int
    spread: float
    to_device_bytes: int
    id_bytes: int
    row_bytes: int

    @classmethod
    def of(cls, count: StepCount, schema: Schema, config: Config, requests: Requests, batch: HostBatch) -> "Step":
        """Of a batch as `Requests.batch` makes it. With `data.batch_events` batches differ by about one request."""
        dims = table_dims(schema, config.embedding)
        sharded = [
            (batch.num_unique[key], dims[table])
            for key, table in schema.layout.tables.items()
            if not config.embedding.is_replicated(table)
        ]
        return cls(
            count=count,
            requests=batch.num_requests,
            candidates=batch.num_candidates,
            events=batch.num_events,
            spread=requests.spread * (1.0 if config.data.batch_events else batch.num_requests**0.5),
            to_device_bytes=batch.nbytes,
            id_bytes=ID_BYTES * sum(ids for ids, _ in sharded),
            row_bytes=ROW_BYTES * sum(ids * dim for ids, dim in sharded),
        )


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step: `exposed` stages one after the other; `hidden` ones run beside them.

    `step_s` is the sum of the exposed ones, or the longest hidden one; `limited_by` names which.
    """

    exposed: dict[str, float]
    hidden: dict[str, float]
    samples_per_s: float

    @property
    def step_s(self) -> float:
        return max(sum(self.exposed.values()), *self.hidden.values())

    @property
    def limited_by(self) -> str:
        own, longest = sum(self.exposed.values()), max(self.hidden, key=self.hidden.__getitem__)
        return longest if self.hidden[longest] > own else max(self.exposed, key=self.exposed.__getitem__)


def step_time(step: Step, cluster: Cluster, config: Config, *, workers: int, delayed: bool) -> StepTime:
    """Seconds of a step of every rank of a cluster; `workers`: reader processes of a rank, `delayed`: the dense update
    is one step late."""
    machine = cluster.machine
    device = {stage: work.seconds for stage, work in stages_of(step.count, machine).items()}
    exposed = device | {"host": _host_beyond(step, machine, sum(device.values()))}
    more = imbalance(cluster.gpus, step.events, step.spread) - 1
    exposed["imbalance"] = more * sum(device[stage] for stage in BY_EVENTS)
    exposed["rows all-to-all"] = 2 * cluster.all_to_all_s(step.row_bytes)
    reduce_s = cluster.all_reduce_s(step.count.dense * (2 if config.optim.compress == "bf16" else 4))
    hidden = {
        "input": (step.events / machine.input_events_per_s + machine.input_batch_s) / max(workers, 1),
        "host to device": step.to_device_bytes / machine.to_device_bytes_per_s,
        "ids all-to-all": cluster.all_to_all_s(step.id_bytes),
    }
    if delayed:
        hidden["all-reduce"] = reduce_s
    else:
        # Gradients of parts in bf16 come out together after their backward: nothing of it hides.
        exposed["all-reduce"] = reduce_s
    found = StepTime(exposed, hidden, 0.0)
    return StepTime(exposed, hidden, step.candidates * cluster.gpus / found.step_s)


def _host_beyond(step: Step, machine: Machine, device_s: float) -> float:
    """What the host needs for its launches beyond the time of the device."""
    return max(machine.host_launch_s * len(step.count.operators) - device_s, 0.0)
