"""Every answer is counted, and what nobody caught is one of 500."""

import asyncio
from typing import Any

from dist_rec.serve.server.measured import Measured
from dist_rec.serve.server.metrics import Metrics
from tests.serve.server.test_metrics import values


def call(app: Any, metrics: Metrics | None, scope: dict[str, Any]) -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Measured(app, lambda: metrics)(scope, None, send))  # type: ignore[arg-type]
    return sent


class Route:
    path = "/v1/users/{user}"


async def fine(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204})


async def broken(scope: Any, receive: Any, send: Any) -> None:
    raise ZeroDivisionError


async def half(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200})
    raise ZeroDivisionError


def test_routes_by_their_names_and_statuses() -> None:
    metrics = Metrics(dict, lambda: 0, lambda: None)
    call(fine, metrics, {"type": "http", "route": Route()})
    sent = call(broken, metrics, {"type": "http"})
    assert sent[0]["status"] == 500 and b'"place":"server"' in sent[1]["body"]
    assert len(call(half, metrics, {"type": "http"})) == 1, "an answer that has begun is not begun again"
    found = values(metrics)
    assert found["dist_rec_http_requests_total['/v1/users/{user}', '204']"] == 1
    assert found["dist_rec_http_requests_total['500', 'other']"] == 1
    assert found["dist_rec_http_request_seconds_count['other']"] == 2


def test_before_the_start_and_for_other_kinds_nothing_is_counted() -> None:
    call(fine, None, {"type": "http"})
    metrics = Metrics(dict, lambda: 0, lambda: None)
    call(fine, metrics, {"type": "lifespan"})
    assert "dist_rec_http_requests_total['204', 'other']" not in values(metrics)
