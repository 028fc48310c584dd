"""Resident memory of two gloo ranks that train, above that of the process before its model is built.

The base is read when everything is imported and the ranks have met. The peak is the kernel's mark of the highest
resident memory (VmHWM), reset then. Reader processes are not in it; theirs is told beside it.
"""

import io
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from benchmarks.preflight.cases import CASES, OTHER, ROOT, SMALLEST, Case
from dist_rec.training.loop import train_one
from dist_rec.training.ranks import start_ranks
from dist_rec.training.run_log import RunLog
from dist_rec.training.splits import with_reader_workers

RANKS = 2
LOOK_S = 0.05


@dataclass(frozen=True)
class Measured:
    """Bytes of the rank that has most: peak above the base, of it memory of the process's own (the rest are pages of
    files); and the most that all readers of a rank had for themselves."""

    peak: int
    anonymous: int
    readers: int


def measure(case: Case, data: Path) -> Measured:
    """In processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS), "--standalone"]
        command += ["-m", "benchmarks.preflight.measured", case.name, str(data), folder]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=ROOT, check=True, env=environment)
        return Measured(*json.loads(out.read_text()))


def on_a_rank(case: Case, data: Path, out: Path) -> None:
    config = case.config(data, out)
    with start_ranks(config.parallel) as ranks:
        config = with_reader_workers(config, ranks)
        Path("/proc/self/clear_refs").write_text("5")
        base, base_anonymous = _status("VmRSS"), _status("RssAnon")
        watch = Watch()
        with RunLog(out / "run", is_main=ranks.is_main, console=Console(file=io.StringIO())) as log:
            train_one(config, ranks, log)
        readers, anonymous = watch.stop()
        found = ranks.largest(_status("VmHWM") - base, anonymous - base_anonymous, readers)
        if ranks.is_main:
            (out / "found.json").write_text(json.dumps([int(each) for each in found]))


class Watch(threading.Thread):
    """Looks at this process and at its readers until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._done, self._readers, self._anonymous = threading.Event(), 0, 0
        self.start()

    def run(self) -> None:
        while not self._done.wait(LOOK_S):
            self._anonymous = max(self._anonymous, _status("RssAnon"))
            self._readers = max(self._readers, sum(_own(child.pid) for child in multiprocessing.active_children()))

    def stop(self) -> tuple[int, int]:
        """Bytes of the readers, and of this process."""
        self._done.set()
        self.join()
        return self._readers, self._anonymous


def _status(name: str) -> int:
    return int(Path("/proc/self/status").read_text().partition(f"{name}:")[2].split()[0]) * 1024


def _own(pid: int | None) -> int:
    """Private bytes of a process; 0 of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private"))


if __name__ == "__main__":
    cases = {case.name: case for case in (SMALLEST, OTHER, *CASES)}
    on_a_rank(cases[sys.argv[1]], Path(sys.argv[2]), Path(sys.argv[3]))
