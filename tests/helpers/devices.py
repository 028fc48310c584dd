"""One body for a test on a GPU and for its rehearsal on the CPU, so that it runs the first time it meets a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from dist_rec.config import ParallelConfig
from dist_rec.training.ranks import Ranks, start_ranks

# Values of a parameter `device`.
DEVICES = [pytest.param("cpu", id="rehearsal"), pytest.param("cuda", id="gpu", marks=pytest.mark.gpu)]


@contextmanager
def one_rank(device: str) -> Iterator[Ranks]:
    """A job of one rank, under NCCL on a GPU and under gloo on the CPU."""
    with start_ranks(ParallelConfig(backend="nccl" if device == "cuda" else "gloo")) as ranks:
        assert ranks.device.type == device
        yield ranks


@contextmanager
def no_waiting(device: str) -> Iterator[None]:
    """Inside, torch raises where the host would wait for the GPU. On the CPU nothing is watched."""
    if device != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
