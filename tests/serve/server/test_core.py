"""A server without HTTP."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.serve.disk_store import DiskStore
from dist_rec.serve.redis_store import RedisStore
from dist_rec.serve.request_rows import Refused
from dist_rec.serve.server.core import Core, open_store
from dist_rec.serve.server.live import Running
from dist_rec.serve.server.settings import Settings
from dist_rec.serve.service import Answer
from tests.serve.exports import close, engine_of, make_requests, whole_scores, without_events, write_export
from tests.serve.server.test_metrics import values


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("core")
    return write_export(folder / "one"), write_export(folder / "two", seed=1)


def run(export: Path, work: Callable[[Core, Running], Awaitable[Any]], store: Any = None, **settings: Any) -> Any:
    async def main() -> Any:
        core = Core(Settings(**settings), store)
        try:
            return await work(core, await core.load(export))
        finally:
            await asyncio.to_thread(core.close)

    return asyncio.run(main())


def soon() -> float:
    return time.monotonic() + 60


def test_many_at_once_are_batches_and_right(exports: tuple[Path, Path]) -> None:
    requests, engine = make_requests(40), engine_of(exports[0])

    async def work(core: Core, running: Running) -> None:
        rows = [running.service.reader.request(request) for request in requests]
        found = await asyncio.gather(*[core.handle(running, [row], soon()) for row in rows])
        for of, request in zip(found, requests, strict=True):
            assert isinstance(of, list) and isinstance(of[0], Answer)
            assert close(of[0].scores, whole_scores(engine, request))
        counted = values(core.metrics)
        assert counted["dist_rec_scored_requests_total['computed']"] == 40
        assert counted["dist_rec_batch_requests_sum[]"] == 40 and counted["dist_rec_batch_requests_count[]"] < 20
        assert counted["dist_rec_scored_candidates_total[]"] == sum(len(of["candidate.item"]) for of in requests)

    run(exports[0], work, max_wait_ms=50)


def test_one_request_that_breaks_the_model_breaks_no_other(
    exports: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = make_requests(5)

    async def work(core: Core, running: Running) -> None:
        score = running.service.engine.score

        def breaks(states: Any, table: Any) -> Any:
            assert 3 not in table.column("user").to_pylist()
            return score(states, table)

        monkeypatch.setattr(running.service.engine, "score", breaks)
        rows = [running.service.reader.request(request) for request in requests]
        calls = [core.handle(running, [row], soon()) for row in rows]
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert [isinstance(of, AssertionError) for of in found] == [place == 3 for place in range(5)]

    run(exports[0], work, max_wait_ms=50)


def test_a_request_goes_to_the_model_that_read_it(exports: tuple[Path, Path]) -> None:
    (request,) = make_requests(1)
    engines = [engine_of(export) for export in exports]

    async def work(core: Core, first: Running) -> None:
        row = first.service.reader.request(request)
        before = core.handle(first, [row], soon())
        second = await core.load(exports[1])
        kept = second.service.reader.request(without_events(request))
        found = [await before, await core.handle(second, [kept], soon()), await core.handle(first, [kept], soon())]
        for of, engine in zip(found, (engines[0], engines[1], engines[0]), strict=True):
            assert isinstance(of, list) and isinstance(of[0], Answer)
            assert close(of[0].scores, whole_scores(engine, request))
        with pytest.raises(ConfigError):
            await core.load(exports[0] / "nothing")
        assert core.live.running is second
        counted = values(core.metrics)
        assert counted["dist_rec_reloads_total['taken']"] == 2 and counted["dist_rec_reloads_total['refused']"] == 1

    run(exports[0], work)


def test_forgetting_is_done_in_order(exports: tuple[Path, Path]) -> None:
    (request,) = make_requests(1)

    async def work(core: Core, running: Running) -> None:
        reader = running.service.reader
        rows = [reader.request(request), reader.request(without_events(request))]
        first = asyncio.create_task(core.handle(running, rows, soon()))
        gone = asyncio.create_task(core.forget(running, running.service.user_key(str(request["user"])), soon()))
        after = asyncio.create_task(core.handle(running, rows[1:], soon()))
        found = await first
        assert isinstance(found, list) and all(isinstance(of, Answer) for of in found)
        await gone
        found = await after
        assert isinstance(found, list) and isinstance(found[0], Refused) and found[0].history_needed

    run(exports[0], work, max_wait_ms=20)


def test_closing_answers_what_waits_and_writes_states(exports: tuple[Path, Path], tmp_path: Path) -> None:
    requests = make_requests(6)

    async def work(core: Core, running: Running) -> list[Any]:
        rows = [running.service.reader.request(request) for request in requests]
        waiting = [asyncio.create_task(core.handle(running, [row], soon())) for row in rows]
        await asyncio.sleep(0)
        closing = asyncio.create_task(asyncio.to_thread(core.close))
        found = await asyncio.gather(*waiting)
        await closing
        return found

    async def main() -> list[Any]:
        core = Core(Settings(max_wait_ms=5000), DiskStore(tmp_path, 10**7))
        return await work(core, await core.load(exports[0]))

    assert all(isinstance(of[0], Answer) for of in asyncio.run(main()))
    assert DiskStore(tmp_path, 10**7).counts().entries == 6


def test_stores_by_settings(tmp_path: Path) -> None:
    assert open_store(Settings()) is None
    store = open_store(Settings(disk=str(tmp_path / "states"), disk_mb=3))
    assert isinstance(store, DiskStore) and store.max_bytes == 3 * 2**20
    store.close()
    assert isinstance(open_store(Settings(redis="redis://127.0.0.1:1/0")), RedisStore)


def test_what_breaks_while_an_export_is_loaded_is_told(
    exports: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(core: Core, first: Running) -> None:
        monkeypatch.setattr(core.live, "load", lambda path: 1 / 0)
        with pytest.raises(ConfigError, match="cannot be loaded: ZeroDivisionError"):
            await core.load(exports[1])
        assert core.live.running is first

    run(exports[0], work)
