"""`dist-rec plan-cost`: what a step of a recipe would cost on machines that are not here."""

from pathlib import Path
from typing import Any

from rich.console import Console

from dist_rec.common.strict import ConfigError, check
from dist_rec.common.yaml_file import apply_override
from dist_rec.config import Config
from dist_rec.cost.machine import Machine, machine_of, read_machine
from dist_rec.cost.network import Cluster, Network, network_of
from dist_rec.cost.parts import Parts, parts_of
from dist_rec.cost.report import render
from dist_rec.cost.requests import Described, Requests, described, measured
from dist_rec.cost.stages import StepCount, count_on_cpu, count_on_gpu
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.schema import Schema
from dist_rec.training.ranks import start_ranks
from dist_rec.training.splits import MOST_WORKERS, dataset_schema, reader_workers
from dist_rec.training.study import members

DEFAULT_GPU = "h100-80gb"


def plan_cost(
    config: Config,
    *,
    gpus: str,
    nets: str,
    gpu: str | None,
    machine: Path | None,
    gpus_per_host: int | None,
    requests: list[str],
) -> None:
    """Prints tables of the step of a recipe.

    Args:
        gpus, nets: lists with commas, such as "8,64,1024" and "nvlink,ib400,eth25".
        gpu, machine: a built-in machine, or the file of one; by default an H100.
        gpus_per_host: in place of the network's own.
        requests: `key=value` of `Described`, in the place of requests measured from the training split.

    Raises ConfigError for what is not known or does not fit."""
    where = _machine(gpu, machine)
    clusters = [Cluster(where, network, count) for count in _counts(gpus) for network in _networks(nets, gpus_per_host)]
    member = members(config)[0].config
    schema = dataset_schema(member).with_feedback(None)  # a step without a teacher
    of = _requests(member, schema, requests)
    console = Console()
    console.print(render(count_parts(member, schema, of, where), of, clusters))


def count_parts(config: Config, schema: Schema, requests: Requests, machine: Machine) -> Parts:
    """Counts the step with and without every part, for the kind of machine. A CPU's step runs here, on one rank."""
    if machine.device == "cuda":
        workers = MOST_WORKERS if config.data.workers is None else config.data.workers

        def on_gpu(of: Config, _: Requests, batch: HostBatch, half: bool) -> StepCount:
            return count_on_gpu(of, schema, batch, half=half)

        return parts_of(config, schema, requests, on_gpu, workers=workers, half=True)
    gloo = config.parallel.model_copy(update={"backend": "gloo"})
    with start_ranks(gloo) as ranks:

        def on_cpu(of: Config, its: Requests, *_: object) -> StepCount:
            return count_on_cpu(of, schema, its, ranks)

        return parts_of(config, schema, requests, on_cpu, workers=reader_workers(config), half=False)


def _machine(gpu: str | None, machine: Path | None) -> Machine:
    if gpu is not None and machine is not None:
        raise ConfigError(f"expected --gpu or --machine, got --gpu {gpu} and --machine {machine}")
    return machine_of(gpu or DEFAULT_GPU) if machine is None else read_machine(machine)


def _counts(gpus: str) -> list[int]:
    parts = gpus.split(",")
    if wrong := [part for part in parts if not part.strip().isdecimal()]:
        raise ConfigError(f"--gpus {gpus}: expected numbers with commas between them, such as 8,64, got '{wrong[0]}'")
    return [int(part) for part in parts]


def _networks(nets: str, gpus_per_host: int | None) -> list[Network]:
    found = [network_of(name.strip()) for name in nets.split(",")]
    if gpus_per_host is None:
        return found
    if gpus_per_host < 1:
        raise ConfigError(f"--gpus-per-host {gpus_per_host}: expected at least 1")
    return [
        network if network.host_bytes_per_s is None else network.model_copy(update={"gpus_per_host": gpus_per_host})
        for network in found
    ]


def _requests(config: Config, schema: Schema, said: list[str]) -> Requests:
    if not said:
        return measured(config, schema)
    tree: dict[str, Any] = {}
    for each in said:
        apply_override(tree, each)
    described_as = check(Described, tree, "--requests")
    return described(schema, config.data.batch_size, config.data.batch_events, described_as)
