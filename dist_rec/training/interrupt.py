"""SIGTERM and SIGUSR1: a run finishes its step, saves and ends, so that a scheduler can start it again.

The signal need not reach all ranks: one that has it tells the others with the numbers that they exchange anyway."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
EXIT = 75  # EX_TEMPFAIL of sysexits.h: try again later
# Names a launcher's file: a rank writes it and exits with 0, since torchrun would restart on 75.
FILE = "DIST_REC_INTERRUPTED"


class Interrupted(Exception):
    """A run that has saved what it had done and ended early. `checkpoint`: what it can go on from."""

    def __init__(self, step: int, checkpoint: Path | None) -> None:
        if checkpoint is None:
            told = "interrupted before the first step; nothing to save"
        else:
            told = f"interrupted after step {step}; resume with: --resume {checkpoint} (or --resume auto)"
        super().__init__(told)
        self.step, self.checkpoint = step, checkpoint


class Asked:
    """Whether this process was asked to end."""

    def __init__(self) -> None:
        self.now = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.now = True


@contextmanager
def listening() -> Iterator[Asked]:
    """Notes the signals, in the main thread; in another one nothing can be noted."""
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.signal(number, asked) for number in SIGNALS}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code() -> int:
    """Of a process whose run was interrupted; the launcher that waits for a file gets it."""
    if not (file := os.environ.get(FILE)):
        return EXIT
    partial = Path(f"{file}.{os.getpid()}")
    partial.write_text("interrupted\n")
    partial.replace(file)
    return 0
