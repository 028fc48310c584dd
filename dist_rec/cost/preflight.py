"""`dist-rec preflight`: whether a run fits a cluster that is not here, and what to change if it does not."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.cost.batches import Batches, batches_of
from dist_rec.cost.changes import Change, Layout, changes_of
from dist_rec.cost.dense_memory import DenseMemory, dense_memory
from dist_rec.cost.machine import MACHINES, machine_of, read_machine
from dist_rec.cost.network import Cluster, network_of
from dist_rec.cost.plan import Step, StepTime, step_time
from dist_rec.cost.rank_memory import RankMemory, device_bytes, fullest_rank
from dist_rec.cost.sharded_memory import NoPlan, Sharded, TablePlan, sharded
from dist_rec.cost.stages import StepCount, count_on_cpu, count_on_gpu
from dist_rec.cost.traffic import Traffic, traffic_of
from dist_rec.data.schema import Schema
from dist_rec.training.ranks import start_ranks
from dist_rec.training.splits import MOST_WORKERS, dataset_schema
from dist_rec.training.study import members

CPU_TABLES = 2**30  # bytes of tables up to which a CPU's step is counted, which makes all of them


@dataclass(frozen=True)
class Mesh:
    """Ranks, their hosts, and what one rank and all train on in a step."""

    ranks: int
    hosts: int
    requests: int
    mean_events: int
    largest_events: int
    source: str


@dataclass(frozen=True)
class Preflight:
    """What a run would take on a cluster. Without a plan `why_not` says why, and what needs one is None or empty."""

    machine: str
    network: str
    mesh: Mesh
    tables: list[TablePlan]
    largest: RankMemory | None
    mean: RankMemory | None
    traffic: list[Traffic]
    time: StepTime | None
    why_not: str | None
    changes: list[Change]

    @property
    def fits(self) -> bool:
        return self.largest is not None and self.largest.fits

    def numbers(self) -> dict[str, Any]:
        """For a JSON file; sizes in bytes, times in seconds."""
        found: dict[str, Any] = {**asdict(self), "fits": self.fits}
        for name, memory in (("largest", self.largest), ("mean", self.mean)):
            found[name] = None if memory is None else {**asdict(memory), "used": memory.used}
        if self.time is not None:
            found["time"] |= {"step_s": self.time.step_s, "limited_by": self.time.limited_by}
        return found


def preflight(config: Config, cluster: Cluster, requests: Sequence[str] = ()) -> Preflight:
    """What a run of the recipe would take on a cluster, and whether it fits.

    Args:
        cluster: see `cluster_of`.
        requests: `key=value` of `Described`, in the place of batches read from the training split.

    Raises ConfigError for a recipe or data that cannot be used, and for a machine whose memory is not known."""
    config = members(config)[0].config
    schema = dataset_schema(config).with_feedback(None)  # a step without a teacher
    memory_bytes = device_bytes(cluster.machine)
    on_gpu = cluster.machine.device == "cuda"

    def batches(of: Config) -> Batches:
        return batches_of(of, schema, requests, cluster.gpus)

    def dense(of: Config, its: Batches) -> DenseMemory:
        return dense_memory(of, schema, its.largest, on_gpu=on_gpu)

    def layout(of: Config, where: Cluster) -> Sharded:
        return sharded(of, schema, where, memory_bytes)

    read = batches(config)
    mesh = _mesh(cluster, read)
    layouts = Layout(config, schema, cluster, read, batches, dense, layout)
    try:
        found = layout(config, cluster)
    except NoPlan as error:
        names = (cluster.machine.name, cluster.network.name)
        return Preflight(*names, mesh, [], None, None, [], None, str(error), changes_of(layouts, None))
    largest = fullest_rank(found, dense(config, read), read.largest, config, schema, cluster)
    of_mean = dense_memory(config, schema, read.mean, on_gpu=on_gpu)
    mean = fullest_rank(found, of_mean, read.mean, config, schema, cluster)
    return Preflight(
        machine=cluster.machine.name,
        network=cluster.network.name,
        mesh=mesh,
        tables=found.tables(),
        largest=largest,
        mean=mean,
        traffic=traffic_of(found, of_mean, read.mean, config),
        time=_time(config, schema, cluster, read, found),
        why_not=None,
        changes=[] if largest.fits else changes_of(layouts, largest),
    )


def cluster_of(world_size: int, gpu: str, net: str, gpus_per_host: int | None) -> Cluster:
    """`world_size` ranks on machines; `gpu`: a built-in one, or the path of a YAML file of one.

    Raises ConfigError for what is not known, and for ranks that do not fill whole hosts."""
    from_file = gpu.endswith((".yaml", ".yml"))
    if not from_file and gpu not in MACHINES:
        raise ConfigError(f"--gpu {gpu}: expected one of {', '.join(MACHINES)}, or a YAML file of a machine")
    machine = read_machine(Path(gpu)) if from_file else machine_of(gpu)
    if world_size < 1:
        raise ConfigError(f"--world-size {world_size}: expected at least 1")
    network = network_of(net)
    if gpus_per_host is not None:
        if gpus_per_host < 1:
            raise ConfigError(f"--gpus-per-host {gpus_per_host}: expected at least 1")
        network = network.model_copy(update={"gpus_per_host": gpus_per_host})
    in_host = network.gpus_per_host or world_size
    if world_size > in_host and world_size % in_host:
        raise ConfigError(f"--world-size {world_size}: expected whole hosts of {in_host} GPUs (--gpus-per-host)")
    return Cluster(machine, network, world_size)


def _mesh(cluster: Cluster, read: Batches) -> Mesh:
    return Mesh(
        ranks=cluster.gpus,
        hosts=cluster.hosts,
        requests=read.mean.num_requests,
        mean_events=read.mean.num_events,
        largest_events=read.largest.num_events,
        source=read.source,
    )


def _time(config: Config, schema: Schema, cluster: Cluster, read: Batches, found: Sharded) -> StepTime | None:
    """Of a mean batch. None for a CPU with tables that are too large to make here."""
    if cluster.machine.device == "cpu":
        if sum(shard.nbytes for shard in found.shards) > CPU_TABLES:
            return None
        count = _count_here(config, schema, read)
    else:
        count = count_on_gpu(config, schema, read.mean, half=True)
    step = Step.of(count, schema, config, read.requests, read.mean)
    workers = MOST_WORKERS if cluster.machine.device == "cuda" else 1
    workers = workers if config.data.workers is None else config.data.workers
    return step_time(step, cluster, config, workers=workers, delayed=config.optim.dense_update == "delayed")


def _count_here(config: Config, schema: Schema, read: Batches) -> StepCount:
    gloo = config.parallel.model_copy(update={"backend": "gloo"})
    with start_ranks(gloo) as ranks:
        return count_on_cpu(config, schema, read.requests, ranks)
