"""What the processes of a job hold, looked at from outside while it runs."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Held:
    """At a moment, in seconds since the first: of all processes of a job their number, resident bytes, threads and open
    files; and the bytes and number of files in shared memory of the machine."""

    seconds: float
    processes: int
    resident: int
    threads: int
    files: int
    shared_files: int
    shared_bytes: int


def family(root: int) -> list[int]:
    """A process and all below it."""
    parents: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(place.read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError, ValueError):
            continue  # it has ended
        parents.setdefault(parent, []).append(int(place.parent.name))
    found, todo = list[int](), [root]
    while todo:
        found.append(todo.pop())
        todo += parents.get(found[-1], [])
    return found


def look(root: int, began: float) -> Held:
    resident = threads = files = processes = 0
    for process in family(root):
        place = Path(f"/proc/{process}")
        try:
            resident += int((place / "statm").read_text().split()[1]) * PAGE
            threads += len(list((place / "task").iterdir()))
            files += len(list((place / "fd").iterdir()))
            processes += 1
        except OSError:
            continue
    shared = [path.stat().st_size for path in Path("/dev/shm").iterdir() if path.is_file()]
    return Held(time.monotonic() - began, processes, resident, threads, files, len(shared), sum(shared))
