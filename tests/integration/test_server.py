"""A server in a process of its own, on this machine's loopback: right, and hard to break."""

import asyncio
import copy
import json
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.serve_load import bodies_of, closed_loop, open_loop
from dist_rec.serve.engine import Engine
from tests.helpers.serving import Serving, serving
from tests.serve.exports import (
    Request,
    close,
    engine_of,
    events_of,
    make_requests,
    whole_scores,
    without_events,
    write_export,
)

REQUESTS = make_requests(30, seed=3)
ADMIN = {"DIST_REC_ADMIN_TOKEN": "admin"}


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models whose scores differ."""
    folder = tmp_path_factory.mktemp("exports")
    return [write_export(folder / str(seed), seed) for seed in range(2)]


@pytest.fixture(scope="module")
def server(exports: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(exports[0], log, "--max-body-kb", "256", "--max-events", "100", environment=ADMIN) as found:
        yield found


@pytest.fixture(scope="module")
def scores(exports: list[Path]) -> dict[str, list[dict[str, list[float]]]]:
    """Version -> what each of REQUESTS must get."""
    engines: list[Engine] = [engine_of(export) for export in exports]
    return {engine.version: [whole_scores(engine, request) for request in REQUESTS] for engine in engines}


def ask(client: httpx.Client, *requests: Request) -> Any:
    answer = client.post("/v1/score", json={"requests": requests})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_scores_append_forget(server: Serving, scores: dict[str, Any]) -> None:
    with server.client() as client:
        found = ask(client, *REQUESTS)
        expected = scores[found["model"]]
        assert all(close(of["scores"], its) for of, its in zip(found["results"], expected, strict=True))
        request = {**REQUESTS[0], "user": 500}
        client.post("/v1/users/500/events", json={"events": events_of(request, slice(-1)), "whole": True})
        client.post("/v1/users/500/events", json={"events": events_of(request, slice(-1, None))})
        found = ask(client, without_events(request))["results"][0]
        assert found["events"]["history"] == len(request["history.item"])
        assert client.delete("/v1/users/500").status_code == 204
        assert client.post("/v1/score", json={"requests": [without_events(request)]}).status_code == 409


def test_too_much_is_refused_and_the_rest_is_right(exports: list[Path], scores: dict[str, Any], tmp_path: Path) -> None:
    with serving(exports[0], tmp_path / "log", "--max-queue", "4", "--max-batch-requests", "2") as server:

        def work(number: int) -> list[int]:
            found: list[int] = []
            with server.client() as client:
                for turn in range(25):
                    place = (number * 7 + turn) % len(REQUESTS)
                    answer = client.post("/v1/score", json={"requests": [REQUESTS[place]] * 2})
                    found.append(answer.status_code)
                    if answer.status_code == 200:
                        tree = answer.json()
                        assert all(close(of["scores"], scores[tree["model"]][place]) for of in tree["results"])
                    else:
                        assert answer.headers["Retry-After"] and answer.json()["error"]["place"] == "queue"
            return found

        with ThreadPoolExecutor(12) as pool:
            found = [code for codes in pool.map(work, range(12)) for code in codes]
        assert set(found) == {200, 429} and len(found) == 300
        assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_is_in_flight_is_answered_before_the_end(
    number: int, exports: list[Path], scores: dict[str, Any], tmp_path: Path
) -> None:
    options = ("--max-wait-ms", "700", "--disk", str(tmp_path / "states"))
    with serving(exports[0], tmp_path / "log", *options) as server:
        clients = [server.client() for _ in range(8)]
        for client in clients:
            client.get("/healthz")  # connected
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(ask, client, REQUESTS[place]) for place, client in enumerate(clients)]
            time.sleep(0.35)
            started = time.monotonic()
            assert server.stop(number) == 0
            assert time.monotonic() - started < 20
            for place, of in enumerate(asked):
                tree = of.result()
                assert close(tree["results"][0]["scores"], scores[tree["model"]][place])
        for client in clients:
            client.close()
    with pytest.raises(httpx.TransportError):
        httpx.get(server.url)
    with serving(exports[0], tmp_path / "log", *options) as server, server.client() as client:
        tree = ask(client, *[without_events(request) for request in REQUESTS[:8]])
        assert all(
            of["cached"] and close(of["scores"], its)
            for of, its in zip(tree["results"], scores[tree["model"]], strict=False)
        )


def test_states_are_there_after_a_kill(exports: list[Path], scores: dict[str, Any], tmp_path: Path) -> None:
    options = ("--disk", str(tmp_path / "states"))
    with serving(exports[0], tmp_path / "log", *options) as server, server.client() as client:
        for request in REQUESTS:
            old = {**request, **events_of(request, slice(-1))}
            ask(client, old)
            ask(client, {**without_events(request), "new_events": events_of(request, slice(-1, None))})
        assert server.stop(signal.SIGKILL) == -signal.SIGKILL
    for damage in (False, True):
        if damage:
            files = sorted((tmp_path / "states").rglob("*.state"))
            data = bytearray(files[0].read_bytes())
            data[len(data) // 2] ^= 4
            files[0].write_bytes(data)
            files[1].write_bytes(files[1].read_bytes()[:-100])
        with serving(exports[0], tmp_path / "log", *options) as server, server.client() as client:
            tree = ask(client, *[without_events(request) for request in REQUESTS])
            lost = [place for place, of in enumerate(tree["results"]) if "error" in of]
            assert len(lost) == 2 * damage
            for place, of in enumerate(tree["results"]):
                assert place in lost or close(of["scores"], scores[tree["model"]][place])
            server.stop(signal.SIGKILL)


def swap_under_load(exports: list[Path], scores: dict[str, Any], tmp_path: Path, swaps: int) -> None:
    link = tmp_path / "current"
    link.symlink_to(exports[0])
    stop = threading.Event()
    seen: set[str] = set()
    asked = answered = 0
    counting = threading.Lock()
    with serving(link, tmp_path / "log", "--disk", str(tmp_path / "states"), environment=ADMIN) as server:

        def load(number: int) -> None:
            nonlocal asked, answered
            rng = random.Random(number)
            with server.client() as client:
                while not stop.is_set():
                    place = rng.randrange(len(REQUESTS))
                    whole = rng.random() < 0.5
                    with counting:
                        asked += 1
                    tree = ask(client, REQUESTS[place] if whole else without_events(REQUESTS[place]))
                    assert close(tree["results"][0]["scores"], scores[tree["model"]][place]), tree
                    with counting:
                        answered += 1
                        seen.add(tree["model"])

        with server.client(Authorization="Bearer admin") as client, ThreadPoolExecutor(4) as pool:
            ask(client, *REQUESTS)
            running = [pool.submit(load, number) for number in range(3)]
            try:
                for swap in range(swaps):
                    target = exports[(swap + 1) % 2]
                    if swap % 2:
                        taken = client.post("/v1/reload", json={"path": str(target)})
                        assert taken.status_code == 200 and taken.json()["before"] != taken.json()["version"]
                        continue
                    before = client.get("/v1/model").json()["version"]
                    client.post("/v1/reload", json={"path": str(link)})  # SIGHUP reads this path again
                    link.unlink()
                    link.symlink_to(target)
                    server.process.send_signal(signal.SIGHUP)
                    end = time.monotonic() + 60
                    while client.get("/v1/model").json()["version"] == before:
                        assert time.monotonic() < end
                        time.sleep(0.01)
            finally:
                stop.set()
                for each in running:
                    each.result()
        assert seen == set(scores) and asked == answered > swaps
        assert server.stop() == 0


def test_swaps_under_load_lose_nothing(exports: list[Path], scores: dict[str, Any], tmp_path: Path) -> None:
    swap_under_load(exports, scores, tmp_path, 10)


@pytest.mark.slow
def test_many_swaps_under_load_lose_nothing(exports: list[Path], scores: dict[str, Any], tmp_path: Path) -> None:
    swap_under_load(exports, scores, tmp_path, 50)


def test_damaged_exports_are_refused_and_the_running_one_goes_on(
    server: Serving, exports: list[Path], scores: dict[str, Any], tmp_path: Path
) -> None:
    rng = random.Random(0)
    files = sorted(path.relative_to(exports[1]) for path in exports[1].rglob("*") if path.is_file())
    with server.client(Authorization="Bearer admin") as client:
        before = client.get("/v1/model").json()["version"]
        for number, name in enumerate(name for name in files if not name.name.startswith(".")):
            for cut in (False, True):
                bad = tmp_path / f"{number}-{cut}"
                shutil.copytree(exports[1], bad)
                data = bytearray((bad / name).read_bytes())
                if cut:
                    data = data[: rng.randrange(len(data))]
                else:
                    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
                (bad / name).write_bytes(data)
                answer = client.post("/v1/reload", json={"path": str(bad)})
                assert answer.status_code == 422, f"{name}: {answer.text}"
                assert answer.json()["error"]["got"]
        tree = ask(client, REQUESTS[0])
        assert tree["model"] == before and close(tree["results"][0]["scores"], scores[before][0])


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 60),
    st.integers(-(2**70), 2**70),
    st.sampled_from([2**31, 2**63 - 1, 2**63, -(2**63), 2**64, 10**300]),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-1, 60), max_size=4),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid body with some of its parts replaced, removed, repeated or renamed, or its text damaged."""
    tree: Any = {"requests": copy.deepcopy(draw(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=3)))}
    if draw(st.booleans()):
        first = tree["requests"][0]
        after = {"after": {"history": 3, "searches": 3}} if draw(st.booleans()) else {}
        tree["requests"][0] = {**without_events(first), "new_events": events_of(first), **after}
    for _ in range(draw(st.integers(1, 4))):
        place: Any = tree
        while isinstance(place, dict | list) and place:
            keys = list(place) if isinstance(place, dict) else range(len(place))
            key = draw(st.sampled_from(keys))
            if not isinstance(place[key], dict | list) or not place[key] or draw(st.integers(0, 3)) == 0:
                change = draw(st.sampled_from(["value", "value", "remove", "repeat", "rename", "deep"]))
                if change == "value":
                    place[key] = draw(VALUES)
                elif change == "remove":
                    del place[key]
                elif change == "repeat":
                    place[key] = [place[key]] * draw(st.integers(0, 200))
                elif change == "rename" and isinstance(place, dict):
                    place[draw(st.text(max_size=4))] = place.pop(key)
                elif change == "deep":
                    place[key] = json.loads("[" * 150 + "]" * 150)
                break
            place = place[key]
    body = bytearray(json.dumps(tree).encode())
    for _ in range(draw(st.integers(0, 2)) if draw(st.integers(0, 3)) == 0 else 0):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(body)


def fuzz(server: Serving, examples: int, scores: dict[str, Any]) -> None:
    statuses: set[int] = set()
    quiet = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    with server.client() as client:

        @settings(max_examples=examples, deadline=None, suppress_health_check=quiet)
        @given(body=st.one_of(mutated(), mutated(), mutated(), st.binary(max_size=60)))
        def post(body: bytes) -> None:
            for path in ("/v1/score", "/v1/users/3/events"):
                answer = client.post(path, content=body)
                statuses.add(answer.status_code)
                assert answer.status_code < 500, (body, answer.text)
                if answer.status_code != 200:
                    error = answer.json()["error"]
                    assert error.keys() == {"place", "expected", "got"} and all(map(len, error.values())), error

        post()
        assert {200, 400, 422} <= statuses
        tree = ask(client, *REQUESTS)
        assert all(close(of["scores"], its) for of, its in zip(tree["results"], scores[tree["model"]], strict=True))


def test_malformed_bodies(server: Serving, scores: dict[str, Any]) -> None:
    fuzz(server, 200, scores)


@pytest.mark.slow
def test_many_malformed_bodies(server: Serving, scores: dict[str, Any]) -> None:
    fuzz(server, 1000, scores)


@pytest.mark.parametrize(
    "sent", [b"nonsense\r\n\r\n", b"POST /v1/score HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"\0" * 99]
)
def test_what_is_no_http_ends_its_connection_alone(server: Serving, sent: bytes) -> None:
    import socket

    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(sent)
        assert connection.recv(99).startswith(b"HTTP/1.1 400")
    with server.client() as client:
        assert client.get("/healthz").status_code == 200


def overload(export: Path, tmp_path: Path, seconds: float, factor: float = 2.0) -> None:
    """More than the server can do: every request is answered or refused, and memory stays flat."""
    bodies = bodies_of(export)
    options = ("--max-queue", "64", "--cache-mb", "8", "--disk", str(tmp_path / "states"), "--disk-mb", "8")
    with serving(export, tmp_path / "log", *options) as server:
        most = asyncio.run(closed_loop(server.url, bodies, 16, min(seconds / 4, 10)))
        assert set(most.codes) == {"200"}
        warm = asyncio.run(open_loop(server.url, bodies, factor * most.per_s, seconds / 4))
        before = server.resident_mib
        load = asyncio.run(open_loop(server.url, bodies, factor * most.per_s, seconds, seed=1))
        after = server.resident_mib
        print(f"closed {most}\nwarm {warm}\nopen {load}\n{before:.0f} -> {after:.0f} MiB")
        assert set(load.codes) <= {"200", "429", "503"} and load.codes["200"] > 0
        assert after < 1.05 * before + 10
        assert server.stop() == 0


def test_overload_for_seconds(exports: list[Path], tmp_path: Path) -> None:
    overload(exports[0], tmp_path, 8)


@pytest.mark.slow
def test_overload_for_ten_minutes(exports: list[Path], tmp_path: Path) -> None:
    overload(exports[0], tmp_path, 600)
