"""Bodies of HTTP requests -> JSON -> rows, and whatever is wrong with them as one kind of error."""

import asyncio
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from dist_rec.serve.request_rows import AFTER, NEW_EVENTS, Refused, Row, RowReader

DRAINED = 8  # times the limit of a body; so much is read of a larger one, so that its sender hears why


class HttpError(Exception):
    """An answer with a status of 4xx or 5xx and `{"error": {"place", "expected", "got"}}`."""

    def __init__(self, status: int, refused: Refused, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(str(refused))
        self.status, self.refused, self.headers = status, refused, dict(headers or {})


def error_json(refused: Refused) -> dict[str, str]:
    return {"place": refused.place, "expected": refused.expected, "got": refused.got}


def status_of(refused: Refused) -> int:
    return 409 if refused.history_needed else 422


class Uploads:
    """Bodies that are being read: each of at most `most` bytes and within `seconds`, of all at once at most `room`
    bytes."""

    def __init__(self, most: int, room: int, seconds: float) -> None:
        self.most, self.room, self.seconds = most, max(room, most), seconds
        self.held = 0  # bytes of bodies that are not whole yet

    async def read(self, request: Request) -> bytes:
        """Raises HttpError: 400 for a connection that breaks, 408 for one that is too slow, 413 for a body that is too
        large, 429 where too much is being read already."""
        parts: list[bytes] = []
        try:
            return await asyncio.wait_for(self._whole(request, parts), self.seconds)
        except asyncio.TimeoutError:
            expected = f"a whole body within {self.seconds:g} s"
            raise HttpError(408, Refused("body", expected, f"{sum(map(len, parts))} bytes of it")) from None
        except ClientDisconnect:
            raise HttpError(400, Refused("body", "a whole body", "a closed connection")) from None
        finally:
            self.held -= sum(map(len, parts))

    async def _whole(self, request: Request, parts: list[bytes]) -> bytes:
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > DRAINED * self.most:
                break
            if size > self.most:
                continue
            if self.held + len(chunk) > self.room:
                expected = f"at most {self.room} bytes of bodies that are being read"
                raise HttpError(429, Refused("body", expected, "more"), {"Retry-After": "1"})
            parts.append(chunk)
            self.held += len(chunk)
        if size > self.most:
            raise HttpError(413, Refused("body", f"at most {self.most} bytes", f"{size} bytes or more"))
        return b"".join(parts)


def parse(body: bytes, known: tuple[str, ...], needed: tuple[str, ...]) -> dict[str, Any]:
    """An object with these names. Raises HttpError 400 for what is no JSON, 422 for other names."""
    try:
        found = from_json(body, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise HttpError(400, Refused("body", "JSON, as RFC 8259 has it", str(error))) from None
    if not isinstance(found, dict):
        raise HttpError(422, Refused("body", f"an object with {', '.join(known)}", found))
    for name in found:
        if name not in known:
            raise HttpError(422, Refused(name[:200] or "a name", f"one of {', '.join(known)}", "another name"))
    for name in needed:
        if name not in found:
            raise HttpError(422, Refused(name, "a value", "none"))
    return found


def score_rows(body: bytes, reader: RowReader, most: int) -> list[Row]:
    """Of `{"requests": [...]}`. Raises HttpError."""
    requests = parse(body, ("requests",), ("requests",))["requests"]
    if not isinstance(requests, list) or not requests:
        got = "an empty list" if requests == [] else requests
        raise HttpError(422, Refused("requests", "a list of at least one request", got))
    if len(requests) > most:
        raise HttpError(422, Refused("requests", f"at most {most} requests", f"{len(requests)} requests"))
    rows: list[Row] = []
    for place, request in enumerate(requests):
        try:
            rows.append(reader.request(request))
        except Refused as error:
            raise HttpError(422, error.below(f"requests[{place}]")) from None
    return rows


def event_row(body: bytes, reader: RowReader, user: str) -> Row:
    """Of `{"events": {...}, "time": seconds, "whole": false, "after": {...}}`. Raises HttpError."""
    found = parse(body, ("events", "time", "whole", AFTER), ("events",))
    whole = found.get("whole", False)
    if not isinstance(whole, bool):
        raise HttpError(422, Refused("whole", "true or false", whole))
    try:
        row = reader.appended(int(user), found["events"], found.get("time"), whole=whole)
    except Refused as error:
        raise HttpError(422, error if error.place == NEW_EVENTS else error.below("events")) from None
    try:
        return reader.after(row, found.get(AFTER))
    except Refused as error:
        raise HttpError(422, error) from None


def deadline_ms(request: Request, usual: int) -> int:
    """Of the header X-Timeout-Ms. Raises HttpError."""
    sent = request.headers.get("x-timeout-ms")
    if sent is None:
        return usual
    if not (sent.isascii() and sent.isdigit() and int(sent[:9]) > 0 and len(sent) < 9):
        raise HttpError(400, Refused("header X-Timeout-Ms", "milliseconds from 1 to 99999999", sent))
    return int(sent)
