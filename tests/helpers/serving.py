"""`dist-rec serve` as a process of its own on a free port of this machine."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
READY_S = 120


class Serving:
    """- `url` of the server, `process` that it runs in"""

    def __init__(self, export: Path, log: Path, *options: str, environment: dict[str, str] | None = None) -> None:
        self._log = log.open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "dist_rec.cli", "serve", str(export), "--port", "0", *options],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), f"{line}{log.read_text()}"
        self.url = line.split()[-1]

    def wait(self) -> "Serving":
        """Until it is ready."""
        end = time.monotonic() + READY_S
        with httpx.Client(base_url=self.url) as client:
            while client.get("/readyz").status_code != 200:
                assert time.monotonic() < end and self.process.poll() is None
                time.sleep(0.05)
        return self

    def client(self, **more: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, headers=more)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit status."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        found = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()
        return found

    @property
    def resident_mib(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def serving(export: Path, log: Path, *options: str, environment: dict[str, str] | None = None) -> Iterator[Serving]:
    """A ready one; killed at the end if it still runs."""
    found = Serving(export, log, *options, environment=environment)
    try:
        yield found.wait()
    finally:
        if found.process.poll() is None:
            found.process.kill()
            found.ended()
