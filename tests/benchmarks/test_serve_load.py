"""The load generator counts every answer, and times from when a request was due."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from benchmarks.serve_load import Load, bodies_of, closed_loop, open_loop
from tests.serve.exports import write_export


def against(load: Callable[[str], Awaitable[Load]], seconds: float, status: str = "200 OK") -> Load:
    """A server that answers after so many seconds, one request after the other; every tenth connection it drops."""
    busy = asyncio.Lock()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                size = int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0])
                body = await reader.readexactly(size)
                async with busy:
                    await asyncio.sleep(seconds)
                if body == b"drop":
                    break
                writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}".encode())
        except asyncio.IncompleteReadError:
            pass
        writer.close()

    async def main() -> Load:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            return await load(f"http://127.0.0.1:{port}")
        finally:
            server.close()

    return asyncio.run(main())


def test_a_closed_loop() -> None:
    found = against(lambda url: closed_loop(url, [b"a", b"drop"], 2, 1.0), 0.01)
    assert found.codes["200"] == len(found.ms) > 5 and found.codes["lost"] > 5
    assert found.percentile(50) >= 10 and "lost" in str(found)


def test_an_open_loop_does_not_wait_for_answers() -> None:
    started = time.perf_counter()
    found = against(lambda url: open_loop(url, [b"a"], 100, 0.5), 0.02)
    asked = sum(found.codes.values())
    assert 20 < asked < 90 and time.perf_counter() - started > 0.02 * asked
    assert found.percentile(99) > 200, "those that came last waited for all others"
    refused = against(lambda url: open_loop(url, [b"a"], 50, 0.3), 0, "429 Too Many Requests")
    assert set(refused.codes) == {"429"} and not refused.ms


def test_bodies(tmp_path: Path) -> None:
    export = write_export(tmp_path / "export", requests=3)
    bodies = bodies_of(export)
    assert len(bodies) == 3 and b"history.item" in bodies[0]
    assert all(
        b"history" not in of and b"searches" not in of and b"candidate" in of for of in bodies_of(export, kept=True)
    )
    assert pytest.approx(Load(2.0).per_s) == 0


def test_an_open_loop_ends_in_time_where_more_is_asked_than_can_be_sent() -> None:
    started = time.perf_counter()
    found = against(lambda url: open_loop(url, [b"a"], 1e6, 0.5), 0)
    assert found.seconds < time.perf_counter() - started < 20
    assert 0 < sum(found.codes.values()) < 400_000 and found.codes.keys() == {"200"}
