"""Work in Python beside training, in pieces with rests between them.

A thread that works in Python takes the interpreter from training, which asks for it after every operation: a step
beside such a thread takes twice as long. In pieces the work is as much, but no step has to wait for all of it."""

import io
import threading
import time

from torch import Tensor
from torch.distributed.checkpoint import DefaultSavePlanner
from torch.distributed.checkpoint.planner import WriteItem

SHARE = 0.1  # of the time, while there is more to do
LONGEST_S = 0.01  # a rest: after a large tensor, which is written without the interpreter


class Pace:
    """Of one thread at a time; any thread may hurry it."""

    def __init__(self) -> None:
        self._hurry = threading.Event()
        self._worked = 0.0  # s of the thread's own time, at the end of the last rest

    def start(self) -> None:
        """Before another piece of work, which may take its time."""
        self._hurry.clear()

    def hurry(self) -> None:
        """Somebody waits for it: no rests from now on, until the next `start`."""
        self._hurry.set()

    def begin(self) -> None:
        """In the thread that works, when it starts."""
        self._worked = time.thread_time()

    def rest(self) -> None:
        """In the thread that works, between two pieces."""
        took = time.thread_time() - self._worked
        self._hurry.wait(min(took * (1 / SHARE - 1), LONGEST_S))
        self._worked = time.thread_time()


class PacedPlanner(DefaultSavePlanner):
    """DCP's planner of a save, which is asked for one tensor after the other, and rests before it gives one."""

    def __init__(self, pace: Pace) -> None:
        super().__init__()
        self._pace = pace
        pace.begin()

    def resolve_data(self, write_item: WriteItem) -> Tensor | io.BytesIO:
        self._pace.rest()
        return super().resolve_data(write_item)
