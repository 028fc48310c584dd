"""A DataLoader with readable errors: an error of a reader process is raised here with its own type and message."""

import errno
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any
from weakref import WeakSet

from torchdata.stateful_dataloader import StatefulDataLoader
from torchdata.stateful_dataloader.stateful_dataloader import _StatefulMultiProcessingDataLoaderIter

from dist_rec.common.strict import ConfigError
from dist_rec.data.errors import DataError

DEATH_S = 0.2  # from a broken connection to the end of the process
SHARED_MEMORY = "shared memory (/dev/shm; docker run --shm-size=1g enlarges it)"


@dataclass(frozen=True)
class Failure:
    """An error of a worker, sent in place of a batch: torch would wrap it in the worker's traceback."""

    error: Exception


def failures_as_values(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches, and a `Failure` at the end if they end by a ConfigError or DataError."""
    try:
        yield from batches
    except (ConfigError, DataError) as error:
        yield Failure(error)


class ReaderLoader(StatefulDataLoader):
    """Raises ConfigError and DataError as the reader raised them, DataError if reader processes cannot start or die,
    and ConfigError for a state with parts missing."""

    def __iter__(self) -> Any:
        resumed = self.next_iter_state is not None
        try:
            batches = super().__iter__()
        except (AssertionError, KeyError, TypeError) as error:  # torchdata's errors for a state with parts missing
            if not resumed:
                raise
            raise ConfigError(f"cannot resume the data stream: its saved position is damaged: {error}") from error
        return self._opened(batches)

    def _get_iterator(self) -> Any:
        if self.num_workers == 0:
            return super()._get_iterator()
        try:
            iterator = _Workers(self, self.next_iter_state)
        except OSError as error:
            lacking = f"room in {SHARED_MEMORY}" if error.errno == errno.ENOSPC else "more of what it lacks"
            raise DataError(
                f"the system cannot start reader processes, {self.num_workers} for each rank: {error.strerror or error}"
                f"; expected {lacking}, or lower data.workers, which sets how many there are (0: none)"
            ) from error
        except RuntimeError as error:
            if _is_death(error):
                raise _death("at its start") from error
            raise
        self.next_iter_state = None
        return iterator

    def _opened(self, batches: Iterator[Any]) -> Iterator[Any]:
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:
                if isinstance(batches, _Workers) and _is_death(error):
                    raise _death(batches.how_one_died() or "without a word") from error
                if "Too many open files" in str(error):
                    raise DataError(
                        "the batches of reader processes need more open files than the system allows; raise the limit "
                        "(ulimit -n), or lower data.workers, which sets how many there are"
                    ) from error
                raise
            if isinstance(batch, Failure):
                try:
                    raise batch.error
                finally:
                    del batch  # the error keeps this frame alive, and the frame would keep the workers
            yield batch


class _Workers(_StatefulMultiProcessingDataLoaderIter):
    """Torch's iterator, silent if it is dropped half built, and with the reason of a worker's death."""

    def __init__(self, loader: StatefulDataLoader, state: Any) -> None:
        super().__init__(loader, state)
        _running.add(self)
        before = signal.getsignal(signal.SIGCHLD)
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and callable(before) and not isinstance(before, _OnDeath):
            signal.signal(signal.SIGCHLD, _OnDeath(before))

    def __del__(self) -> None:
        with suppress(AttributeError):
            super().__del__()

    def how_one_died(self) -> str:
        """Signal or exit code of a worker that ended by itself; empty if none did."""
        for worker in self._workers:
            worker.join(DEATH_S)
            if code := worker.exitcode:
                return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return ""


_running: WeakSet[_Workers] = WeakSet()


class _OnDeath:
    """Raises DataError when one of our workers dies; torch's own signal handler (`before`) raises RuntimeError."""

    def __init__(self, before: Callable[[int, FrameType | None], Any]) -> None:
        self.before = before

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            self.before(number, frame)
        except RuntimeError as error:
            how = next(filter(None, (workers.how_one_died() for workers in _running)), "")
            if how:
                raise _death(how) from error
            raise


def _is_death(error: Exception) -> bool:
    """Torch's error for a dead worker, or the error of a connection to one."""
    gone = isinstance(error, ConnectionError | EOFError | FileNotFoundError)
    return gone or str(error).startswith("DataLoader worker (pid")


def _death(how: str) -> DataError:
    return DataError(
        f"a reader process died ({how}): expected enough memory for all readers; lower data.workers or "
        f"data.shuffle_window, or give the machine or container more memory or {SHARED_MEMORY}"
    )
