"""The HTTP of a server, in this process; a process of its own: tests/integration/test_server.py."""

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from dist_rec.serve.server.app import Routes, create_app
from dist_rec.serve.server.settings import Settings
from tests.serve.exports import (
    close,
    engine_of,
    events_of,
    make_requests,
    whole_scores,
    without_events,
    write_export,
)


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("app")
    return write_export(folder / "one"), write_export(folder / "two", seed=1)


@contextmanager
def serving(export: Path, **settings: Any) -> Iterator[TestClient]:
    with TestClient(create_app(export, Settings(**settings)), raise_server_exceptions=False) as client:
        end = time.monotonic() + 60
        while client.get("/readyz").status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.02)
        yield client


@pytest.fixture(scope="module")
def client(exports: tuple[Path, Path]) -> Iterator[TestClient]:
    with serving(exports[0], max_body_kb=64, max_requests=5, max_candidates=20, max_events=50) as client:
        yield client


def error_of(response: Any, status: int) -> dict[str, str]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error.keys() == {"place", "expected", "got"} and all(error.values())
    return error


def test_scores_are_those_of_the_engine(client: TestClient, exports: tuple[Path, Path]) -> None:
    requests, engine = make_requests(4), engine_of(exports[0])
    for cached in (False, True):
        tree = client.post("/v1/score", json={"requests": requests}).json()
        assert tree["model"] == engine.version
        for of, request in zip(tree["results"], requests, strict=True):
            assert of["user"] == request["user"] and of["cached"] is cached
            assert close(of["scores"], whole_scores(engine, request))


def test_append_and_forget(client: TestClient, exports: tuple[Path, Path]) -> None:
    engine, (request,) = engine_of(exports[0]), make_requests(1, seed=5)
    request = {**request, "user": 77}
    old = {"events": events_of(request, slice(-1)), "whole": True}
    assert client.post("/v1/users/77/events", json=old).json()["results"][0]["scores"] == {}
    new = {"events": events_of(request, slice(-1, None))}
    counted = client.post("/v1/users/77/events", json=new).json()["results"][0]["events"]
    assert counted == {"history": len(request["history.item"]), "searches": len(request["searches.query"])}
    tree = client.post("/v1/score", json={"requests": [without_events(request)]}).json()
    assert close(tree["results"][0]["scores"], whole_scores(engine, request))
    response = client.delete("/v1/users/77")
    assert response.status_code == 204 and not response.content
    answer = client.post("/v1/score", json={"requests": [without_events(request)]})
    assert error_of(answer, 409)["place"] == "history"
    assert error_of(client.post("/v1/users/77/events", json=new), 409)["place"] == "history"
    both = client.post("/v1/score", json={"requests": [without_events(request), {**request, "user": 78}]})
    assert both.status_code == 200 and list(both.json()["results"][0]) == ["error"]


def test_events_that_are_sent_twice_are_appended_once(client: TestClient, exports: tuple[Path, Path]) -> None:
    engine, (request,) = engine_of(exports[0]), make_requests(1, seed=6)
    request = {**request, "user": 78}
    old = {"events": events_of(request, slice(-1)), "whole": True}
    after = client.post("/v1/users/78/events", json=old).json()["results"][0]["events"]
    new = {"events": events_of(request, slice(-1, None)), "after": after}
    first, again = (client.post("/v1/users/78/events", json=new).json()["results"][0] for _ in range(2))
    assert first["events"] == again["events"] == {name: count + 1 for name, count in after.items()}
    asked = {**without_events(request), "new_events": new["events"], "after": after}
    (scored,) = client.post("/v1/score", json={"requests": [asked]}).json()["results"]
    assert close(scored["scores"], whole_scores(engine, request)) and scored["events"] == first["events"]
    wrong = {**new, "after": {name: 0 for name in after}}
    error = error_of(client.post("/v1/users/78/events", json=wrong), 409)
    assert error["place"] == "after" and json.loads(error["got"]) == wrong["after"]
    assert error["expected"].startswith(json.dumps(first["events"]))


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "place"),
    [
        ("POST", "/v1/score", b"{", 400, "body"),
        ("POST", "/v1/score", b"{}", 422, "requests"),
        ("POST", "/v1/score", b'{"requests":"' + b"x" * 70_000 + b'"}', 413, "body"),
        ("POST", "/v1/users/x/events", b'{"events": {}}', 422, "user"),
        ("POST", "/v1/users/5/events", b'{"events": {"searches.query": [77]}}', 422, "requests[0].searches.query"),
        ("DELETE", "/v1/users/1.5", b"", 422, "user"),
        ("DELETE", "/v1/users/" + "9" * 5000, b"", 422, "user"),
        ("POST", "/v1/reload", b"{}", 403, "admin token"),
        ("GET", "/v1/score", b"", 405, "path"),
        ("GET", "/nothing", b"", 404, "path"),
        ("DELETE", "/v1/users/5/events", b"", 405, "path"),
    ],
)
def test_what_is_wrong_is_told(
    client: TestClient, method: str, path: str, body: bytes, status: int, place: str
) -> None:
    assert error_of(client.request(method, path, content=body), status)["place"] == place


def test_places_in_requests(client: TestClient) -> None:
    one, other = make_requests(2)
    answer = client.post("/v1/score", json={"requests": [one, {**other, "candidate.item": [1]}]})
    assert error_of(answer, 422)["place"].startswith("requests[1].candidate")
    timeout = client.post("/v1/score", json={"requests": [one]}, headers={"X-Timeout-Ms": "soon"})
    assert error_of(timeout, 400)["place"] == "header X-Timeout-Ms"


def test_the_page_and_its_example(client: TestClient) -> None:
    tree = client.get("/openapi.json").json()
    body = tree["paths"]["/v1/score"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert client.post("/v1/score", content=json.dumps(body)).status_code == 200
    assert "openapi.json" in client.get("/docs").text
    assert client.get("/v1/model").json()["version"] == tree["info"]["version"]
    assert client.get("/healthz").json() == {"status": "alive"}


def test_metrics(client: TestClient) -> None:
    client.post("/v1/score", json={"requests": make_requests(1)})
    text = client.get("/metrics").text
    assert 'dist_rec_http_requests_total{code="200",route="/v1/score"}' in text
    assert 'dist_rec_states_hits_total{tier="memory"}' in text and "dist_rec_model_info{version=" in text


def test_tokens(exports: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIST_REC_TOKEN", "one")
    monkeypatch.setenv("DIST_REC_ADMIN_TOKEN", "two")
    one, two = {"Authorization": "Bearer one"}, {"Authorization": "Bearer two"}
    with serving(exports[0]) as client:
        for path in ("/v1/model", "/openapi.json"):
            for headers in ({}, {"Authorization": "one"}, {"Authorization": "Bearer \xfc"}, two):
                sent = {name: value.encode("latin-1") for name, value in headers.items()}
                assert error_of(client.get(path, headers=sent), 401)["place"] == "header Authorization"
            assert client.get(path, headers=one).status_code == 200
        assert client.post("/v1/score", content=b"x").status_code == 401
        assert client.delete("/v1/users/1").status_code == 401
        path = {"path": str(exports[1])}
        before = client.get("/v1/model", headers=one).json()["version"]
        assert client.post("/v1/reload", json=path, headers=one).status_code == 401
        assert client.post("/v1/reload", json=path, headers=two).json()["before"] == before
        after = client.get("/v1/model", headers=one).json()["version"]
        assert after != before
        for wrong in ({"path": str(exports[0] / "tables")}, {"path": 5}, {"path": "\0"}):
            answer = client.post("/v1/reload", json=wrong, headers=two)
            assert error_of(answer, 422)["place"] == "path"
        assert client.get("/v1/model", headers=one).json()["version"] == after
        assert client.post("/v1/reload", json={}, headers=two).json()["version"] == after
        assert client.get("/healthz").status_code == client.get("/metrics").status_code == 200


def test_too_many_wait_and_what_is_late_is_not_done(
    exports: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    go, entered = threading.Event(), threading.Event()
    from dist_rec.serve.service import Service

    handle = Service.handle

    def held(self: Service, bodies: Any) -> Any:
        entered.set()
        assert go.wait(30)
        return handle(self, bodies)

    monkeypatch.setattr(Service, "handle", held)
    with serving(exports[0], max_queue=2, max_wait_ms=0) as client, ThreadPoolExecutor(8) as pool:
        requests = make_requests(8)

        def ask(place: int, **headers: str) -> Any:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            return client.post("/v1/score", json={"requests": [requests[place]]}, headers=sent)

        first = pool.submit(ask, 0)
        assert entered.wait(30)
        late = pool.submit(ask, 1, x_timeout_ms="1")
        second = pool.submit(ask, 2)
        text = ""
        while "dist_rec_queue_requests 2.0" not in text:
            text = client.get("/metrics").text
        refused = ask(3)
        assert error_of(refused, 429)["place"] == "queue" and refused.headers["Retry-After"] == "1"
        go.set()
        assert first.result().status_code == second.result().status_code == 200
        assert error_of(late.result(), 503)["place"] == "time"


def test_before_the_model_is_there(exports: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from dist_rec.serve.server.live import Live

    go = threading.Event()
    load = Live.load
    monkeypatch.setattr(Live, "load", lambda self, path: go.wait(30) and load(self, path))
    with TestClient(create_app(exports[0], Settings())) as client:
        for call in (lambda: client.get("/readyz"), lambda: client.post("/v1/score", content=b"{}")):
            assert error_of(call(), 503)["place"] == "model"
        assert client.get("/healthz").status_code == 200 and client.get("/metrics").status_code == 200
        assert client.get("/openapi.json").json()["info"]["version"] == "none yet"
        go.set()


def test_a_first_export_that_is_none_is_told(tmp_path: Path) -> None:
    errors: list[Exception] = []
    with TestClient(create_app(tmp_path, Settings(), None, errors.append)) as client:
        end = time.monotonic() + 30
        while not errors:
            assert client.get("/readyz").status_code == 503 and time.monotonic() < end
    assert "not an export" in str(errors[0])
    assert Routes(Settings()).core is None


def test_what_breaks_is_one_answer_of_500(exports: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from dist_rec.serve.service import Service

    with serving(exports[0]) as client:
        with monkeypatch.context() as patched:
            patched.setattr(Service, "handle", lambda *_: 1 / 0)
            answer = client.post("/v1/score", json={"requests": make_requests(1)})
            assert error_of(answer, 500)["place"] == "server"
        assert client.post("/v1/score", json={"requests": make_requests(1)}).status_code == 200
