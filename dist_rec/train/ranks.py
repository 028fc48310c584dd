"""The ranks of a job: process groups, devices, and the few collectives on host values."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist

from dist_rec.config import ConfigError, ParallelConfig


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

    def barrier(self) -> None:
        dist.barrier(group=self.host_group)


@contextmanager
def start_ranks(config: ParallelConfig) -> Iterator[Ranks]:
    """Joins the job that torchrun started, or makes a job of one rank; leaves it at the end.

    Raises ConfigError if the backend cannot work here.
    """
    torch.set_num_threads(config.threads)
    cuda = torch.cuda.is_available()
    if config.backend == "nccl" and not cuda:
        raise ConfigError("parallel.backend=nccl: no GPU is visible; expected gloo or auto")
    use_cuda = cuda and config.backend != "gloo"
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if use_cuda and local_rank >= torch.cuda.device_count():
        raise ConfigError(f"local rank {local_rank} needs its own GPU, but only {torch.cuda.device_count()} are visible")
    device = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(device)
    backend = "nccl" if use_cuda else "gloo"
    with tempfile.TemporaryDirectory() as folder:
        if "RANK" in os.environ:
            dist.init_process_group(backend)
        else:
            dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            yield Ranks(dist.get_rank(), dist.get_world_size(), device, _group_of_all("gloo"), _group_of_all(backend))
        finally:
            dist.destroy_process_group()


def _group_of_all(backend: str) -> dist.ProcessGroup:
    group = dist.new_group(backend=backend)
    assert isinstance(group, dist.ProcessGroup), "every rank is a member"
    return group
