"""One process as a job of one rank, for as long as somebody in it needs that."""

import os
from contextlib import ExitStack

import torch.distributed as dist

from dist_rec.common.strict import ConfigError
from dist_rec.config import ParallelConfig
from dist_rec.training.ranks import Ranks, joined_ranks, start_ranks


class SharedRank:
    """The process group of this process. The first `enter` makes one, unless the process has one of one rank already;
    after the last `leave` it is gone, if it was made here."""

    def __init__(self) -> None:
        self._users = 0
        self._stack = ExitStack()
        self._ranks: Ranks | None = None

    def enter(self, config: ParallelConfig) -> Ranks:
        """Raises ConfigError in a job of several ranks, for a backend that cannot work here, and if the rank of this
        process is on another kind of device."""
        ranks = int(os.environ.get("WORLD_SIZE", "1"))
        if ranks > 1 or (dist.is_initialized() and dist.get_world_size() > 1):
            raise ConfigError(
                f"expected a process of its own, got one of {ranks} ranks; with several ranks: dist-rec predict"
            )
        if self._ranks is None:
            self._ranks = (
                joined_ranks(config) if dist.is_initialized() else self._stack.enter_context(start_ranks(config))
            )
        wanted = {"gloo": "cpu", "nccl": "cuda"}.get(config.backend, self._ranks.device.type)
        if self._ranks.device.type != wanted:
            raise ConfigError(
                f"expected all models of a process on one kind of device, got {wanted} beside "
                f"{self._ranks.device.type}; close the others first"
            )
        self._users += 1
        return self._ranks

    def leave(self) -> None:
        self._users -= 1
        if self._users == 0:
            self._ranks = None
            self._stack.close()


SHARED = SharedRank()
