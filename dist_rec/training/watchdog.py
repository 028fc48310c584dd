"""A run that stands still: every rank says where it stands, the one that the others wait for is named, and all end.

A thread of every rank looks at the time since its last step. The first one whose patience ends makes a folder `hang` in
the folder of the run; the others see it, and each writes its place and the stacks of its threads there. torchrun then
starts the job again, which goes on from its last checkpoint."""

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from dist_rec.training.ranks import Ranks

FOLDER = "hang"
EXIT = 70  # EX_SOFTWARE of sysexits.h
LOOK_S, ANSWER_S = 1.0, 5.0  # between two looks at the time and the folder; for the answers of all ranks
COLLECTIVES = ("distributed_c10d.py", "_functional_collectives.py")


@dataclass
class Progress:
    """What this process does: the `stage` since `since`, at a `step` of the run."""

    stage: str = "starting"
    step: int = 0
    since: float = 0.0

    def at(self, stage: str, step: int | None = None) -> None:
        self.stage, self.since = stage, time.monotonic()
        self.step = self.step if step is None else step


PROGRESS = Progress()


@dataclass(frozen=True)
class Place:
    """Where a rank stands; `collective` that it waits in, or None, and the line of code."""

    rank: int
    step: int
    stage: str
    seconds: float
    collective: str | None
    line: str

    @property
    def told(self) -> str:
        waits = f"waits in {self.collective}" if self.collective else f"is in no collective, at {self.line}"
        return f"rank {self.rank}: step {self.step}, {self.stage} for {self.seconds:.0f} s, {waits}"


@contextmanager
def watching(
    folder: Path, ranks: Ranks, patience_s: int | None, end: Callable[[int], object] = os._exit
) -> Iterator[None]:
    """Watches this process, whose PROGRESS is told by the loop. `end`: what a rank does that stood still, with EXIT."""
    if patience_s is None:
        yield
        return
    PROGRESS.at("starting")
    over = threading.Event()
    place = Path(ranks.told(str(_unused(folder / FOLDER))))  # ranks of one run share a folder, which rank 0 names
    thread = threading.Thread(target=_watch, args=(place, ranks, patience_s, over, end), name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _unused(folder: Path) -> Path:
    """A name in the folder for this start, by the time. A clock that was set back may come to one that is there, which
    would be taken for a rank's call to end."""
    place, number = folder / time.strftime("%Y%m%d-%H%M%S"), 1
    while place.exists():
        number += 1
        place = place.with_name(f"{place.name.split('_')[0]}_{number}")
    return place


def _watch(place: Path, ranks: Ranks, patience_s: int, over: threading.Event, end: Callable[[int], object]) -> None:
    while not over.wait(LOOK_S):
        if time.monotonic() - PROGRESS.since > patience_s:
            place.mkdir(parents=True, exist_ok=True)
        if place.is_dir():
            write_place(place, ranks.rank)
            over.wait(ANSWER_S)
            if ranks.rank == min((of.rank for of in read_places(place)), default=ranks.rank):
                print(verdict(place, ranks.world_size), file=sys.stderr, flush=True)
            end(EXIT)
            return


def write_place(folder: Path, rank: int) -> None:
    """`rank-N.txt`: one line of JSON, a `Place`, then the stacks of all threads."""
    main = sys._current_frames().get(threading.main_thread().ident or 0)
    line, collective = _where(main)
    seconds = time.monotonic() - PROGRESS.since
    found = Place(rank, PROGRESS.step, PROGRESS.stage, round(seconds, 1), collective, line)
    partial = folder / f".rank-{rank}.txt"
    with partial.open("w") as file:
        file.write(json.dumps(asdict(found)) + "\n\n")
        file.flush()
        faulthandler.dump_traceback(file, all_threads=True)
    partial.replace(folder / f"rank-{rank}.txt")


def read_places(folder: Path) -> list[Place]:
    """By rank."""
    lines = [path.read_text().splitlines()[0] for path in folder.glob("rank-*.txt")]
    return sorted((Place(**json.loads(line)) for line in lines), key=lambda place: place.rank)


def verdict(folder: Path, world_size: int) -> str:
    """Who holds the others up: ranks without an answer, else those in no collective, else those of the lowest step."""
    places = read_places(folder)
    silent = sorted(set(range(world_size)) - {place.rank for place in places})
    slow = [place.rank for place in places if place.collective is None]
    lowest = min((place.step for place in places), default=0)
    behind = [place.rank for place in places if place.step == lowest]
    blamed = silent or slow or (behind if len(behind) < len(places) else [])
    names = ", ".join(map(str, blamed))
    if silent:
        first = f"rank {names} gives no answer"
    elif blamed:
        first = f"the others wait for rank {names}"
    else:
        first = "all ranks wait in collectives"
    lines = "\n".join(f"  {place.told}" for place in places)
    return f"error: no progress: {first}\n{lines}\n  stacks of all threads: {folder}"


def _where(frame: FrameType | None) -> tuple[str, str | None]:
    """The innermost line, and the collective that it is inside of."""
    line, collective = "nowhere", None
    if frame is not None:
        line = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
    while frame is not None:
        name = Path(frame.f_code.co_filename).name
        # The outermost function of the library that was called, such as all_reduce.
        if name in COLLECTIVES:
            collective = frame.f_code.co_name
        elif collective is None and frame.f_code.co_name == "wait" and "distributed" in frame.f_code.co_filename:
            collective = f"{name} wait"
        frame = frame.f_back
    return line, collective
