"""A thread that prepares the batches of a loader ahead, and keeps the loader's position after each batch."""

import copy
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

STOP_S = 5.0  # longest wait for the thread at an early end
KEPT_POSITIONS = 16  # more batches than any pipeline holds


@dataclass(frozen=True)
class Failed:
    error: BaseException


@dataclass(frozen=True)
class _Made:
    """A batch, or `_END`, and the position of the loader after it."""

    batch: Any
    position: Any


_END = object()


def position_of(loader: Any) -> dict[str, Any] | Failed | None:
    """A copy of the loader's `state_dict`, None without one; a `Failed` if it fails, for users of the position only."""
    if not hasattr(loader, "state_dict"):
        return None
    try:
        return copy.deepcopy(loader.state_dict())
    except Exception as error:
        return Failed(error)


class Ahead:
    """One pass over `loader`: `make(batch)` for each batch, in a thread that keeps `prefetch` results ready.

    - `positions`: of the loader before the first batch and after each batch that was yielded, the latest ones
    - `end`: of the loader at its end, once the consumer got there
    """

    def __init__(self, loader: Iterable[Any], make: Callable[[Any], Any], prefetch: int) -> None:
        self.positions: deque[dict[str, Any] | Failed | None] = deque(maxlen=KEPT_POSITIONS + 1)
        self.end: dict[str, Any] | Failed | None = None
        self._ready: queue.Queue[Any] = queue.Queue(maxsize=prefetch)
        self._stopped = threading.Event()
        # Only the thread references the loader: garbage collection of a cycle could delete a loader with workers in an
        # order in which they do not end.
        self._worker = threading.Thread(target=self._work, args=(loader, make), name="DedupLoader", daemon=True)
        self._worker.start()

    def batches(self) -> Iterator[Any]:
        while True:
            made = self._ready.get()
            if isinstance(made, Failed):
                raise made.error
            if made.batch is _END:
                self.end = made.position
                return
            self.positions.append(made.position)
            yield made.batch

    def stop(self, why: str = "") -> None:
        """Ends the thread; with `why`, a consumer that continues gets a RuntimeError with it."""
        # A worker that waits for room ends now; one that waits for its loader ends with the next batch or the process.
        self._stopped.set()
        given_up = time.monotonic() + STOP_S
        while self._worker.is_alive() and time.monotonic() < given_up:
            try:
                self._ready.get(timeout=0.01)
            except queue.Empty:
                pass
        if why:
            while not self._ready.empty():
                self._ready.get()
            self._ready.put(Failed(RuntimeError(f"this iteration of the DedupLoader is over, {why}")))

    def _work(self, loader: Iterable[Any], make: Callable[[Any], Any]) -> None:
        try:
            batches = iter(loader)
            self.positions.append(position_of(loader))
            for batch in batches:
                position = position_of(loader)
                if self._stopped.is_set():
                    return
                self._ready.put(_Made(make(batch), position))
            self._ready.put(_Made(_END, position_of(loader)))
        except BaseException as error:  # raised again where the batches are consumed
            self._ready.put(Failed(error))
