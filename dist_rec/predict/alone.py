"""One process as a job of one rank, for as long as somebody in it needs that."""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch.distributed as dist

from dist_rec.common.strict import ConfigError
from dist_rec.config import ParallelConfig
from dist_rec.training.ranks import Ranks, joined_ranks, start_ranks


class SharedRank:
    """The process group of this process. The first `enter` makes one, unless the process has one of one rank already;
    after the last `leave` it is gone, if it was made here. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._stack = ExitStack()
        self._ranks: Ranks | None = None

    def enter(self, config: ParallelConfig) -> Ranks:
        """Raises ConfigError in a job of several ranks, for a backend that cannot work here, and if the rank of this
        process is on another kind of device."""
        with self._lock:
            return self._enter(config)

    def _enter(self, config: ParallelConfig) -> Ranks:
        ranks = os.environ.get("WORLD_SIZE", "1")
        if ranks != "1" or (dist.is_initialized() and dist.get_world_size() > 1):
            raise ConfigError(
                f"expected a process of its own, got one of {ranks} ranks; with several ranks: dist-rec predict"
            )
        if self._ranks is None:
            start = _joined if dist.is_initialized() else start_ranks
            self._ranks = self._stack.enter_context(start(config))
        wanted = {"gloo": "cpu", "nccl": "cuda"}.get(config.backend, self._ranks.device.type)
        if self._ranks.device.type != wanted:
            raise ConfigError(
                f"expected all models of a process on one kind of device, got {wanted} beside "
                f"{self._ranks.device.type}; close the others first"
            )
        self._users += 1
        return self._ranks

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                self._ranks = None
                self._stack.close()


@contextmanager
def _joined(config: ParallelConfig) -> Iterator[Ranks]:
    """In a process group of somebody else, with groups that end here."""
    ranks = joined_ranks(config)
    try:
        yield ranks
    finally:
        for group in (ranks.host_group, ranks.dense_group):
            dist.destroy_process_group(group)


SHARED = SharedRank()
