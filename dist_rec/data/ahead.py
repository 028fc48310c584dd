"""A thread that works ahead on the batches of a loader, and remembers where the loader stood behind each."""

import copy
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

STOP_S = 5.0  # that leaving early waits for the thread
KEPT_POSITIONS = 16  # more batches than any pipeline holds


@dataclass(frozen=True)
class Failed:
    error: BaseException


@dataclass(frozen=True)
class _Made:
    """A batch, or what the loader's end left in its place, and the position of the loader behind it."""

    batch: Any
    position: Any


_END = object()


def position_of(loader: Any) -> dict[str, Any] | Failed | None:
    """A copy of the loader's `state_dict`; None if it has none, and the error if it has one that fails: only who asks
    for the position should meet it."""
    if not hasattr(loader, "state_dict"):
        return None
    try:
        return copy.deepcopy(loader.state_dict())
    except Exception as error:
        return Failed(error)


class Ahead:
    """One pass over `loader`: `make(batch)` for each of its batches, in a thread of its own that keeps `prefetch`
    ready.

    - `positions`: of the loader before the first batch and behind each that was handed out, the last ones
    - `end`: of the loader when it was exhausted and the consumer knows
    """

    def __init__(self, loader: Iterable[Any], make: Callable[[Any], Any], prefetch: int) -> None:
        self.positions: deque[dict[str, Any] | Failed | None] = deque(maxlen=KEPT_POSITIONS + 1)
        self.end: dict[str, Any] | Failed | None = None
        self._ready: queue.Queue[Any] = queue.Queue(maxsize=prefetch)
        self._stopped = threading.Event()
        # The thread alone holds the loader: in a cycle with what made it, a loader with workers would be taken apart in
        # an order in which they do not end.
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
        """Ends the thread; with `why`, whoever still asks for batches is told."""
        # The worker may wait for room; if it waits for its loader instead, it ends with the next batch or the process.
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
