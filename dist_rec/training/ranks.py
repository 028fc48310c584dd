"""The ranks of a job: process groups, devices, and the few collectives on host values."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from dist_rec.common.errors import RunError, Unmet
from dist_rec.common.strict import ConfigError
from dist_rec.config import ParallelConfig
from dist_rec.training.meeting import meet
from dist_rec.training.memory import keep_freed_memory

LAST_WORD_S = 1.0
TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Ranks:
    """This rank's place in the job.

    `host_group` is a gloo group for values on the host; `dense_group` carries the dense all-reduce and nothing else, so
    that it never queues behind TorchRec's all-to-alls.
    """

    rank: int
    world_size: int
    device: torch.device
    host_group: dist.ProcessGroup
    dense_group: dist.ProcessGroup

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """Sums over all ranks. Comm: one all-reduce of float64 on the host."""
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.host_group)
        return tensor.tolist()

    def largest(self, *values: float) -> list[float]:
        """The largest of each over all ranks. Comm: one all-reduce of float64 on the host."""
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.host_group)
        return tensor.tolist()

    def told(self, text: str) -> str:
        """What rank 0 says. Comm: one broadcast on the host."""
        found = [text]
        dist.broadcast_object_list(found, src=0, group=self.host_group)
        return found[0]

    def barrier(self) -> None:
        dist.barrier(group=self.host_group)


def device_type(config: ParallelConfig) -> str:
    """`cuda` or `cpu`. Raises ConfigError if the backend cannot work here."""
    if config.backend == "nccl" and not torch.cuda.is_available():
        raise ConfigError("parallel.backend=nccl: no GPU is visible; expected gloo or auto")
    return "cuda" if torch.cuda.is_available() and config.backend != "gloo" else "cpu"


@contextmanager
def start_ranks(config: ParallelConfig) -> Iterator[Ranks]:
    """Joins the job that torchrun started, or makes a job of one rank; leaves it at the end.

    Raises ConfigError if the backend cannot work here, torchrun's variables are there in part, or the other ranks do
    not come within `parallel.join_timeout_s`, and RunError if they cannot be reached."""
    _check_environment()
    torch.set_num_threads(config.threads)
    use_cuda = device_type(config) == "cuda"
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if use_cuda and local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"local rank {local_rank} needs its own GPU, but only {torch.cuda.device_count()} are visible"
        )
    device = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(device)
    else:
        keep_freed_memory()
    backend = "nccl" if use_cuda else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        if "RANK" in os.environ:
            _join(backend, config.join_timeout_s)
        else:
            dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        store, failed = dist.distributed_c10d._get_default_store(), True
        parts = dist.get_world_size() > 1 and dist.get_rank() == 0
        try:
            yield Ranks(dist.get_rank(), dist.get_world_size(), device, _group_of_all("gloo"), _group_of_all(backend))
            failed = False
        finally:
            dist.destroy_process_group()
            if failed and parts:  # the others notice it now, and look into the store
                time.sleep(LAST_WORD_S)
            del store


def joined_ranks(config: ParallelConfig) -> Ranks:
    """This rank of a process group that somebody else made and ends. Comm: makes two groups.

    Raises ConfigError if the backend cannot work here."""
    device = torch.device("cuda", torch.cuda.current_device()) if device_type(config) == "cuda" else torch.device("cpu")
    backend = "nccl" if device.type == "cuda" else "gloo"
    return Ranks(dist.get_rank(), dist.get_world_size(), device, _group_of_all("gloo"), _group_of_all(backend))


def _check_environment() -> None:
    """Raises ConfigError for variables of torchrun that are missing or do not fit together."""
    found = {name: os.environ.get(name) for name in TORCHRUN}
    there = [name for name, value in found.items() if value is not None]
    missing = [name for name, value in found.items() if value is None]
    if there and missing and (found["RANK"] is not None or found["WORLD_SIZE"] not in (None, "1")):
        told = ", ".join(f"{name}={found[name]}" for name in there)
        raise ConfigError(
            f"the environment has {told}, but not {', '.join(missing)}: expected all of them, as torchrun sets them, "
            f"or none, for a job of one rank (unset {' '.join(there)})"
        )
    if missing:
        return
    numbers = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "MASTER_PORT")}
    numbers |= {"LOCAL_RANK": os.environ.get("LOCAL_RANK", "0")}
    for name, value in numbers.items():
        if not value.isdecimal():
            raise ConfigError(f"the environment has {name}={value!r}, expected a number, as torchrun sets it")
    if not int(numbers["RANK"]) < int(numbers["WORLD_SIZE"]):
        raise ConfigError(
            f"the environment has RANK={numbers['RANK']} and WORLD_SIZE={numbers['WORLD_SIZE']}, expected a rank below "
            "it"
        )


class _NotMet(Unmet, ConfigError):
    """Rank 0 says it."""


class _NotReached(Unmet, RunError):
    """Every rank says it."""


def _join(backend: str, timeout_s: int) -> None:
    """Meets the other ranks. Waiting for them ends in time to be noticed; collectives keep torch's own timeout."""
    place = f"MASTER_ADDR={os.environ['MASTER_ADDR']}, MASTER_PORT={os.environ['MASTER_PORT']}"
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        store, *_ = next(dist.rendezvous("env://", rank, world_size, timeout=timedelta(seconds=timeout_s)))
        # All are here before torch waits for them, which it does for half an hour.
        common = meet(dist.PrefixStore("dist_rec", store), rank, world_size, timedelta(seconds=timeout_s))
        prefixed = dist.PrefixStore(f"dist_rec/{common}", store)
    except (dist.DistError, RuntimeError, OSError) as error:
        text = " ".join(str(error).split())
        if "EADDRINUSE" in text or "in use" in text.lower():
            raise _NotMet(f"{place}: the port is taken by another program; expected a free one") from None
        # Rank 0 speaks for all, where it can be reached.
        kind = _NotMet if rank == 0 or "connect" not in text else _NotReached
        raise kind(
            f"{place}: rank {rank} has not met all {world_size} ranks within {timeout_s} s (parallel.join_timeout_s); "
            f"expected all of them to be started, and to reach this address: {text[:200]}"
        ) from None
    store.set_timeout(dist.default_pg_timeout)
    dist.init_process_group(backend, store=prefixed, rank=rank, world_size=world_size)


def _group_of_all(backend: str) -> dist.ProcessGroup:
    group = dist.new_group(backend=backend)
    assert isinstance(group, dist.ProcessGroup), "every rank is a member"
    return group
