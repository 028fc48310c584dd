"""Load for a server: requests of an export's reference, or of a file, from this machine.

    python -m benchmarks.serve_load http://127.0.0.1:8000 exports/quickstart --rate 200 --seconds 30
    python -m benchmarks.serve_load http://127.0.0.1:8000 exports/quickstart --connections 16 --seconds 30

With --rate the loop is open: requests start at random times of that mean rate whether or not others were answered, and
latency counts from the time at which a request should have started. With --connections it is closed: so many ask, each
again as soon as it has its answer."""

import argparse
import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

MOST_CONNECTIONS = 2_000
LOST = "lost"  # in the place of a status


@dataclass
class Load:
    """- `codes`: answers by status, "lost" for none
    - `ms` of the answers of 200
    """

    seconds: float = 0.0
    codes: Counter[str] = field(default_factory=Counter)
    ms: list[float] = field(default_factory=list)

    @property
    def per_s(self) -> float:
        """Answers of 200."""
        return self.codes["200"] / self.seconds

    def percentile(self, q: float) -> float:
        return float(np.percentile(self.ms, q)) if self.ms else float("nan")

    def __str__(self) -> str:
        codes = ", ".join(f"{code}: {count}" for code, count in sorted(self.codes.items()))
        tail = ", ".join(f"p{q} {self.percentile(q):.1f} ms" for q in (50, 95, 99))
        return f"{sum(self.codes.values()) / self.seconds:.1f} asked/s, {self.per_s:.1f} scored/s, {tail} ({codes})"


class Connection:
    """One connection that stays open, with the least of HTTP/1.1 that a server of ours needs: a client in full would
    take more of the machine than the server that is measured."""

    def __init__(self, url: str, token: str | None = None) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        more = "" if token is None else f"Authorization: Bearer {token}\r\n"
        self._head = f"POST /v1/score HTTP/1.1\r\nHost: {parts.netloc}\r\n{more}Content-Length: "
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, body: bytes) -> str:
        """The status; "lost" if the connection ended before an answer came. One that was open already is opened again:
        a server may close it while it is idle, as every client must know."""
        used = self._streams is not None
        found = await self._once(body)
        return await self._once(body) if found == LOST and used else found

    async def _once(self, body: bytes) -> str:
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(self._host, self._port)
            reader, writer = self._streams
            writer.write(f"{self._head}{len(body)}\r\n\r\n".encode() + body)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
            await reader.readexactly(int(head.split("content-length:")[1].split("\r\n")[0]))
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return LOST
        if "connection: close" in head:
            self.close()
        return head.split(" ", 2)[1]

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def closed_loop(url: str, bodies: Sequence[bytes], connections: int, seconds: float) -> Load:
    """So many connections, each with one request at a time."""
    load, started = Load(), time.perf_counter()

    async def work(number: int) -> None:
        connection, turn = Connection(url), number
        while time.perf_counter() < started + seconds:
            await _timed(connection, bodies[turn % len(bodies)], time.perf_counter(), load)
            turn += connections
        connection.close()

    await asyncio.gather(*[work(number) for number in range(connections)])
    load.seconds = time.perf_counter() - started
    return load


async def open_loop(url: str, bodies: Sequence[bytes], rate: float, seconds: float, seed: int = 0) -> Load:
    """`rate` requests per second, at times of a Poisson process. Where more are on the way than `MOST_CONNECTIONS` or
    than this machine can send, those that have not started at the end are left out: the rate that was asked says it."""
    load, rng, started = Load(), random.Random(seed), time.perf_counter()
    free: list[Connection] = []
    running: set[asyncio.Task[None]] = set()

    async def work(body: bytes, due: float) -> None:
        connection = free.pop() if free else Connection(url)
        await _timed(connection, body, due, load)
        free.append(connection)

    due, turn, end = started, 0, started + seconds
    while (due := due + rng.expovariate(rate)) < end and time.perf_counter() < end:
        await asyncio.sleep(max(due - time.perf_counter(), 0))
        if len(running) >= MOST_CONNECTIONS:
            await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(work(bodies[turn % len(bodies)], due))
        running.add(task)
        task.add_done_callback(running.discard)
        turn += 1
    while running:
        await asyncio.wait(running)
    load.seconds = time.perf_counter() - started
    for connection in free:
        connection.close()
    return load


async def _timed(connection: Connection, body: bytes, due: float, load: Load) -> None:
    code = await connection.ask(body)
    load.codes[code] += 1
    if code == "200":
        load.ms.append((time.perf_counter() - due) * 1e3)


def bodies_of(export: Path, *, kept: bool = False) -> list[bytes]:
    """One request each. With `kept` they are without events, for users whose states a server has."""
    requests = json.loads((export / "reference.json").read_text())["requests"]
    if kept:
        names = {of["name"] for of in json.loads((export / "model.json").read_text())["schema_"]["sequences"]}
        requests = [{k: v for k, v in of.items() if k.partition(".")[0] not in names} for of in requests]
    return [json.dumps({"requests": [of]}).encode() for of in requests]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("export", type=Path)
    parser.add_argument("--rate", type=float, help="requests per second of an open loop")
    parser.add_argument("--connections", type=int, default=8, help="of a closed loop")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--kept", action="store_true", help="send no history once all users were sent with theirs")
    arguments = parser.parse_args()
    bodies = bodies_of(arguments.export)
    if arguments.kept:
        print("first", asyncio.run(closed_loop(arguments.url, bodies, 1, 0.1 * len(bodies))))
        bodies = bodies_of(arguments.export, kept=True)
    if arguments.rate is None:
        print(asyncio.run(closed_loop(arguments.url, bodies, arguments.connections, arguments.seconds)))
    else:
        print(asyncio.run(open_loop(arguments.url, bodies, arguments.rate, arguments.seconds)))


if __name__ == "__main__":
    main()
