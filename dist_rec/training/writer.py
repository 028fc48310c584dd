"""Writes the checkpoints of a run: at once, or from a copy while training goes on."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.staging import BlockingAsyncStager

from dist_rec.config import CheckpointConfig
from dist_rec.training.checkpoint import HALF, Content, copy_checkpoint, unwritten, write_checkpoint
from dist_rec.training.kept import thin
from dist_rec.training.pace import Pace, PacedPlanner
from dist_rec.training.ranks import Ranks
from dist_rec.training.together import from_first

SWITCH_S = 1e-4


class CheckpointWriter:
    """One at a time: the next checkpoint waits for the one before. All ranks call all methods in the same order.

    With `config.asynchronous` a thread writes, over a gloo group of its own, so that its collectives never come between
    those of training."""

    def __init__(self, ranks: Ranks, config: CheckpointConfig) -> None:
        self._ranks, self._config = ranks, config
        self._group, self._thread = ranks.host_group, None
        self._stager, self._pace = BlockingAsyncStager(cache_staged_state_dict=True), Pace()
        if config.asynchronous:
            group = dist.new_group(backend="gloo")
            assert isinstance(group, dist.ProcessGroup), "every rank is a member"
            self._group, self._thread = group, ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._written: Future[None] | None = None

    def write(self, folder: Path, content: Content) -> None:
        """Raises what `write_checkpoint` does, of the checkpoint before, too, and OSError if an old one cannot be
        deleted; on all ranks."""
        self.wait()
        best = from_first(lambda: _kept_aside(content.best, folder), self._ranks.host_group)
        content = replace(content, best=best)
        if self._thread is None:
            self._write(folder, content)
        else:
            copied = replace(content, state=self._copy(content.state))
            self._pace.start()
            self._written = self._thread.submit(self._write, folder, copied)

    def wait(self) -> None:
        """Until the checkpoint that is being written is there. Raises what went wrong with it."""
        written, self._written = self._written, None
        self._pace.hurry()
        if written is not None:
            written.result()

    def close(self) -> None:
        """Waits, without a word of what went wrong, and ends the thread."""
        self._pace.hurry()
        if self._thread is not None:
            self._thread.shutdown()

    def _copy(self, state: dict[str, Any]) -> dict[str, Any]:
        """On the host, in memory that is kept for the next one: new pages cost more than the copy, and DCP's stager
        copies tables twice to make room for them."""
        if self._stager.state_dict_cache is None and not torch.cuda.is_available():  # there it pins its own
            self._stager.state_dict_cache = BlockingAsyncStager().stage(state)
        return self._stager.stage(state)

    def _write(self, folder: Path, content: Content) -> None:
        try:
            with _giving_way(self._thread is not None):
                planner = None if self._thread is None else PacedPlanner(self._pace)
                write_checkpoint(folder, content, self._group, planner)
            from_first(lambda: thin(folder.parent, self._config), self._group)
        finally:
            if self._ranks.is_main and content.best is not None:
                shutil.rmtree(content.best.parent, ignore_errors=True)


def _kept_aside(best: Path | None, folder: Path) -> Path | None:
    """A copy of the best weights for the checkpoint `folder`: they may be replaced while it is written."""
    if best is None:
        return None
    aside = None
    try:
        aside = Path(tempfile.mkdtemp(prefix=f"{HALF}best-", dir=best.parent))
        copy_checkpoint(best, aside / best.name)
    except OSError as error:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
        raise unwritten(folder, error) from error
    return aside / best.name


@contextmanager
def _giving_way(beside_training: bool) -> Iterator[None]:
    """DCP works in Python: training gets the interpreter back at once, and not after 5 ms, many times a step."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S if beside_training else before)
    try:
        yield
    finally:
        sys.setswitchinterval(before)
