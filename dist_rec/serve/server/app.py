"""The HTTP of a server."""

import asyncio
import hmac
import logging
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from dist_rec.common.strict import ConfigError
from dist_rec.serve.cache import StateStore
from dist_rec.serve.request_rows import Refused, Row
from dist_rec.serve.server.batcher import Closed, Late, QueueFull
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
from dist_rec.serve.server.core import Core
from dist_rec.serve.server.live import Running
from dist_rec.serve.server.measured import Measured
from dist_rec.serve.server.page import add_page
from dist_rec.serve.server.settings import MIB, Settings
from dist_rec.serve.service import Answer, Result

_logger = logging.getLogger(__name__)
Failed = Callable[[Exception], None]


class Routes:
    """Handlers of one app. `core` is there from its start on."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.token, self.admin_token = settings.token, settings.admin_token
        self.uploads = Uploads(settings.max_body_kb * 1024, settings.max_reading_mb * MIB, settings.body_timeout_s)
        self.core: Core | None = None

    async def score(self, request: Request) -> Response:
        """Probabilities of the candidates of one or several requests, per task, in the order of the candidates."""
        running, body = self._ready(request), await self._body(request)
        if self._core.full:
            raise _queue_full()
        rows = score_rows(body, running.service.reader, self.settings.max_requests)
        return _answered(running, await self._handled(request, running, rows))

    async def append(self, request: Request, user: str) -> Response:
        """New events of a user whose history is kept; with `whole`, all events of the user."""
        running = self._ready(request)
        key = _user(running, user)
        row = event_row(await self._body(request), running.service.reader, key)
        return _answered(running, await self._handled(request, running, [row]))

    async def forget(self, request: Request, user: str) -> Response:
        """Deletes what is kept of a user, in all tiers."""
        running = self._ready(request)
        key, core = _user(running, user), self._core
        deadline = time.monotonic() + deadline_ms(request, self.settings.timeout_ms) / 1e3
        try:
            await _waited(core.forget(running, key, deadline))
        except OSError as error:
            _logger.warning("a user cannot be forgotten: %s", error)
            raise HttpError(503, Refused("store", "a store that can be reached", "none; try again")) from None
        return Response(status_code=204)

    async def model(self, request: Request) -> Response:
        """Version and columns of the model that is served, and the limits of a request."""
        return _json(self._ready(request).described())

    async def reload(self, request: Request) -> Response:
        """Takes another export, if it is one and scores as it did where it was made."""
        if self.admin_token is None:
            raise HttpError(403, Refused("admin token", "a server that was started with one", "none"))
        _check_token(request, self.admin_token)
        sent = parse(await self._body(request), ("path",), ()).get("path", str(self._core.live.path or ""))
        if not isinstance(sent, str) or not sent or "\0" in sent:
            raise HttpError(422, Refused("path", "the folder of an export", sent or "nothing"))
        before = self._core.live.running
        try:
            running = await self._core.load(Path(sent))
        except ConfigError as error:
            raise HttpError(422, Refused("path", "an export that is whole and scores as it did", str(error))) from None
        return _json({"version": running.version, "before": None if before is None else before.version})

    async def alive(self) -> Response:
        return _json({"status": "alive"})

    async def ready(self) -> Response:
        """200 once an export was loaded and has given the scores of its reference."""
        running = None if self.core is None else self.core.live.running
        if running is None:
            raise HttpError(503, Refused("model", "a model that was loaded and verified", "none yet"))
        return _json({"status": "ready", "version": running.version})

    async def metrics(self) -> Response:
        """For Prometheus."""
        return Response(self._core.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    def checked(self, request: Request) -> None:
        """Raises HttpError unless the request has the token, where there is one."""
        if self.token is not None:
            _check_token(request, self.token)

    @property
    def _core(self) -> Core:
        assert self.core is not None, "the app has started"
        return self.core

    def _ready(self, request: Request) -> Running:
        self.checked(request)
        if (running := self._core.live.running) is None:
            raise HttpError(503, Refused("model", "a model that was loaded and verified", "none yet"), _later())
        return running

    async def _body(self, request: Request) -> bytes:
        return await self.uploads.read(request)

    async def _handled(self, request: Request, running: Running, rows: list[Row]) -> list[Result]:
        deadline = time.monotonic() + deadline_ms(request, self.settings.timeout_ms) / 1e3
        found = await _waited(self._core.handle(running, rows, deadline))
        if isinstance(found, Refused):
            raise HttpError(status_of(found), found)
        return found


def create_app(
    export: Path, settings: Settings, store: StateStore | None = None, failed: Failed | None = None
) -> FastAPI:
    """Loads the export when it starts, in the background; `failed` gets what hinders that. `store` is the second tier
    of states, see `open_store`."""
    routes = Routes(settings)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        routes.core = core = Core(settings, store)
        first = asyncio.create_task(_load_first(core, export, failed))
        _reload_on_hangup(core)
        yield
        await first
        await asyncio.to_thread(core.close)

    app = FastAPI(title="dist_rec", lifespan=life, openapi_url=None, docs_url=None, redoc_url=None)
    app.add_api_route("/v1/score", routes.score, methods=["POST"])
    app.add_api_route("/v1/users/{user}/events", routes.append, methods=["POST"])
    app.add_api_route("/v1/users/{user}", routes.forget, methods=["DELETE"], status_code=204)
    app.add_api_route("/v1/model", routes.model, methods=["GET"])
    app.add_api_route("/v1/reload", routes.reload, methods=["POST"])
    app.add_api_route("/healthz", routes.alive, methods=["GET"])
    app.add_api_route("/readyz", routes.ready, methods=["GET"])
    app.add_api_route("/metrics", routes.metrics, methods=["GET"])
    add_page(app, routes.checked, lambda: None if routes.core is None else routes.core.live.running)
    app.add_exception_handler(HttpError, _told)
    app.add_exception_handler(HTTPException, _told_by_starlette)
    app.add_middleware(Measured, lambda: None if routes.core is None else routes.core.metrics)
    return app


async def _load_first(core: Core, export: Path, failed: Failed | None) -> None:
    try:
        await core.load(export)
    except ConfigError as error:
        if failed is None:
            _logger.error("%s", error)
        else:
            failed(error)


def _reload_on_hangup(core: Core) -> None:
    """SIGHUP reads the same path again, which may be a link to another export by now."""
    if threading.current_thread() is not threading.main_thread():
        return
    tasks: set[asyncio.Task[None]] = set()  # the loop alone would not keep them

    async def again(path: Path) -> None:
        try:
            await core.load(path)
        except ConfigError as error:
            _logger.error("the model before is served on: %s", error)

    def start() -> None:
        if core.live.path is not None:
            task = asyncio.create_task(again(core.live.path))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, start)


async def _waited(answer: Awaitable[Any]) -> Any:
    """Raises HttpError in the place of what a queue does."""
    try:
        return await answer
    except QueueFull:
        raise _queue_full() from None
    except Late:
        raise HttpError(503, Refused("time", "an answer before the request's deadline", "none"), _later()) from None
    except Closed:
        raise HttpError(503, Refused("server", "a server that goes on", "one that stops"), _later()) from None


def _queue_full() -> HttpError:
    return HttpError(429, Refused("queue", "fewer requests than wait already", "another one"), _later())


def _later() -> dict[str, str]:
    return {"Retry-After": "1"}


def _user(running: Running, user: str) -> str:
    try:
        return running.service.user_key(user)
    except Refused as error:
        raise HttpError(422, error) from None


def _check_token(request: Request, token: bytes) -> None:
    sent = request.headers.get("authorization", "").encode("latin-1")
    if not hmac.compare_digest(sent, b"Bearer " + token):
        raise HttpError(
            401, Refused("header Authorization", "Bearer and the token", "another"), {"WWW-Authenticate": "Bearer"}
        )


def _answered(running: Running, results: list[Result]) -> Response:
    """200 if any request was answered, else the status of the first; results are in the order of the requests."""
    found = [_result(of) for of in results]
    tree: dict[str, Any] = {"model": running.version, "results": found}
    refused = [of for of in results if isinstance(of, Refused)]
    if len(refused) < len(results):
        return _json(tree)
    return _json({"error": error_json(refused[0]), **tree}, status_of(refused[0]))


def _result(of: Result) -> dict[str, Any]:
    if isinstance(of, Answer):
        return {"user": int(of.user), "cached": of.cached, "scores": of.scores, "events": of.events}
    return {"error": error_json(of)}


def _json(tree: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(tree), status, headers, "application/json")


async def _told(_: Request, error: Exception) -> Response:
    assert isinstance(error, HttpError), "registered for it"
    return _json({"error": error_json(error.refused)}, error.status, error.headers)


async def _told_by_starlette(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for it"
    expected = {404: "a path of /openapi.json", 405: "another method for this path"}.get(
        error.status_code, error.detail
    )
    refused = Refused("path", expected, f"{request.method} {request.url.path}")
    return _json({"error": error_json(refused)}, error.status_code, dict(error.headers or {}))
