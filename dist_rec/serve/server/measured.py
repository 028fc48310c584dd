"""Counts and times every answer, and turns what nobody caught into one of 500."""

import logging
import time
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dist_rec.serve.server.metrics import Metrics

_logger = logging.getLogger(__name__)
_BODY = b'{"error":{"place":"server","expected":"an answer","got":"an error, which its log has"}}'


class Measured:
    """Around an app. Plain ASGI: what starlette offers for this costs a task for every request."""

    def __init__(self, app: ASGIApp, metrics: Callable[[], Metrics | None]) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, sent)
        except Exception:
            _logger.exception("a request failed")
            if not status:
                headers = [(b"content-type", b"application/json"), (b"content-length", str(len(_BODY)).encode())]
                await sent({"type": "http.response.start", "status": 500, "headers": headers})
                await send({"type": "http.response.body", "body": _BODY})
        if (metrics := self.metrics()) is not None:
            route = _route(scope)
            metrics.requests.labels(route, str(status)).inc()
            metrics.seconds.labels(route).observe(time.perf_counter() - started)


def _route(scope: Scope) -> str:
    """The path with its parameters by name: others would make a series for each user."""
    route: Any = scope.get("route")
    return getattr(route, "path", "other")
