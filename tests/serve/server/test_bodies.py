"""Bodies and headers that are wrong, each with its status and place."""

import asyncio
import json
from typing import Any

import pytest
from starlette.requests import Request

from dist_rec.serve.request_rows import Limits, Refused, RowReader
from dist_rec.serve.server.bodies import (
    HttpError,
    Uploads,
    deadline_ms,
    error_json,
    event_row,
    parse,
    score_rows,
    status_of,
)
from tests.serve.exports import SCHEMA, as_body, events_of, make_requests, without_events

READER = RowReader(SCHEMA, Limits())
ONE, OTHER = make_requests(2)


def request_of(*chunks: bytes, headers: dict[str, str] | None = None, whole: bool = True) -> Request:
    parts: list[dict[str, Any]] = [{"type": "http.request", "body": of, "more_body": True} for of in chunks]
    parts.append({"type": "http.request", "body": b""} if whole else {"type": "http.disconnect"})

    async def receive() -> dict[str, Any]:
        return parts.pop(0)

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    return Request({"type": "http", "method": "POST", "headers": raw}, receive)


def read(*chunks: bytes, most: int = 10, whole: bool = True) -> bytes:
    uploads = Uploads(most, 100, 10.0)
    try:
        return asyncio.run(uploads.read(request_of(*chunks, whole=whole)))
    finally:
        assert uploads.held == 0


def test_bodies_have_a_limit() -> None:
    assert read() == b"" and read(b"12345", b"67890") == b"1234567890"
    for chunks in ([b"12345", b"678901"], [b"x" * 50] * 1000):
        with pytest.raises(HttpError) as caught:
            read(*chunks)
        assert caught.value.status == 413
    with pytest.raises(HttpError) as caught:
        read(b"1", whole=False)
    assert caught.value.status == 400


def test_a_body_that_does_not_come_is_given_up() -> None:
    sent = [b"12345"]

    async def receive() -> dict[str, Any]:
        if not sent:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": sent.pop(), "more_body": True}

    uploads = Uploads(10, 100, 0.05)
    with pytest.raises(HttpError, match=r"a whole body within 0.05 s.*5 bytes of it") as caught:
        asyncio.run(uploads.read(Request({"type": "http", "method": "POST", "headers": []}, receive)))
    assert caught.value.status == 408 and uploads.held == 0


def test_all_bodies_together_have_a_limit() -> None:
    uploads = Uploads(10, 15, 10.0)

    async def both() -> list[Any]:
        asked = [request_of(b"1234567", b"890"), request_of(b"12345", b"6789")]
        gate = asyncio.Event()

        def held_back(request: Request) -> Request:
            receive = request.receive

            async def later() -> Any:
                message = await receive()
                if message.get("body") in (b"890", b"6789"):
                    await gate.wait()
                return message

            return Request(request.scope, later)

        reading = [asyncio.ensure_future(uploads.read(held_back(of))) for of in asked]
        await asyncio.sleep(0.01)
        assert uploads.held == 12
        gate.set()
        return await asyncio.gather(*reading, return_exceptions=True)

    first, second = asyncio.run(both())
    assert first == b"1234567890"
    assert isinstance(second, HttpError) and second.status == 429 and second.headers["Retry-After"] == "1"
    assert uploads.held == 0


def test_one_body_always_has_room() -> None:
    assert asyncio.run(Uploads(10, 1, 10.0).read(request_of(b"1234567890"))) == b"1234567890"


@pytest.mark.parametrize(
    ("body", "status", "place"),
    [
        (b"", 400, "body"),
        (b"{", 400, "body"),
        (b"\xff{}", 400, "body"),
        (b'{"a": NaN}', 400, "body"),
        (b"[" * 100_000, 400, "body"),
        (b"null", 422, "body"),
        (b"[]", 422, "body"),
        (b'{"b": 1}', 422, "b"),
        (b'{"c": 1}', 422, "a"),
    ],
)
def test_what_is_no_object_of_these_names(body: bytes, status: int, place: str) -> None:
    with pytest.raises(HttpError) as caught:
        parse(body, ("a", "c"), ("a",))
    assert (caught.value.status, caught.value.refused.place) == (status, place)


def test_requests() -> None:
    assert len(score_rows(as_body(ONE, OTHER), READER, 2)) == 2
    for tree, place in (
        ({"requests": []}, "requests"),
        ({"requests": {}}, "requests"),
        ({"requests": [ONE] * 3}, "requests"),
        ({"requests": [ONE, {**OTHER, "x": 1}]}, "requests[1].x"),
        ({"requests": [ONE, None]}, "requests[1].request"),
    ):
        with pytest.raises(HttpError) as caught:
            score_rows(json.dumps(tree).encode(), READER, 2)
        assert (caught.value.status, caught.value.refused.place) == (422, place)


def test_events() -> None:
    row = event_row(json.dumps({"events": events_of(ONE), "time": 2000, "whole": True}).encode(), READER, "5")
    assert row.history == "whole" and row.values["user"] == 5 and row.values["time"] == 2000
    assert event_row(b'{"events": {"searches.query": [1]}}', READER, "5").history == "new"
    for tree, place in (
        ({}, "events"),
        ({"events": {}, "whole": 1}, "whole"),
        ({"events": 5}, "new_events"),
        ({"events": {"history.item": [1]}}, "events.history.kind"),
        ({"events": without_events(ONE)}, "events.user"),
        ({"events": {"searches.query": [1]}, "whole": True}, "events.history.item"),
        ({"events": {"searches.query": [1]}, "after": {"history": 1}}, "after.searches"),
        ({"events": events_of(ONE), "after": {}, "whole": True}, "after"),
    ):
        with pytest.raises(HttpError) as caught:
            event_row(json.dumps(tree).encode(), READER, "5")
        assert (caught.value.status, caught.value.refused.place) == (422, place)


def test_deadlines() -> None:
    assert deadline_ms(request_of(), 7) == 7
    assert deadline_ms(request_of(headers={"X-Timeout-Ms": "250"}), 7) == 250
    for sent in ("", "0", "-1", "1.5", "x", "9" * 30, "\xb2"):
        with pytest.raises(HttpError) as caught:
            deadline_ms(request_of(headers={"X-Timeout-Ms": sent}), 7)
        assert caught.value.status == 400


def test_what_is_refused_is_told_in_three_parts() -> None:
    error = Refused("a.b", "one", 2)
    assert error_json(error) == {"place": "a.b", "expected": "one", "got": "2"} and status_of(error) == 422
    assert status_of(Refused("a", "b", "c", history_needed=True)) == 409
