"""OpenAPI of a server, with an example that works: it is a request that the export brings along."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from pydantic_core import to_json

from dist_rec.data.columns import Column, columns_of
from dist_rec.serve.request_rows import AFTER, NEW_EVENTS
from dist_rec.serve.server.live import Running

_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {name: {"type": "string"} for name in ("place", "expected", "got")},
        }
    },
}
_STATUSES = {
    "400": "No JSON.",
    "401": "No token, or another one.",
    "408": "A body that took too long.",
    "409": "The history of the user is not known here: send it whole.",
    "413": "A body that is too large.",
    "422": "A value, a name or a length that does not fit.",
    "429": "Too many requests wait.",
    "503": "No model yet, or the request waited too long.",
}


def add_page(app: FastAPI, checked: Callable[[Request], None], running: Callable[[], Running | None]) -> None:
    """/openapi.json and /docs. The example is of a user, so it needs the token that scores need."""

    async def openapi(request: Request) -> Response:
        checked(request)
        return Response(to_json(described(app, running())), media_type="application/json")

    async def docs() -> Response:
        return get_swagger_ui_html(openapi_url="openapi.json", title="dist_rec")

    app.add_api_route("/openapi.json", openapi, methods=["GET"], include_in_schema=False)
    app.add_api_route("/docs", docs, methods=["GET"], include_in_schema=False)


def described(app: FastAPI, running: Running | None) -> dict[str, Any]:
    """The OpenAPI of an app for the model that is served."""
    version = "none yet" if running is None else running.version
    tree = get_openapi(title="dist_rec: scores of candidates", version=version, routes=app.routes)
    for path, methods in tree["paths"].items():
        for of in methods.values():
            if path.startswith("/v1/"):
                of["responses"] |= {code: _response(text) for code, text in _STATUSES.items()}
            else:
                of["responses"].pop("422", None)
    if running is None:
        return tree
    reader = running.service.reader
    columns = columns_of(running.service.engine.schema)
    events = [column for column in columns if column.name in reader.events]
    example = running.example
    score = _object({column.name: _type(column) for column in columns}, list(reader.others))
    score["properties"][NEW_EVENTS] = _object({column.name: _type(column) for column in events}, [])
    count = {"type": "integer", "minimum": 0}
    after = _object({of.name: count for of in running.service.engine.schema.sequences}, [])
    score["properties"][AFTER] = after
    requests = {"type": "array", "items": score, "minItems": 1}
    tree["paths"]["/v1/score"]["post"]["requestBody"] = _body(
        _object({"requests": requests}, ["requests"]), {"requests": [example]}
    )
    more = {"time": {"type": "integer"}, "whole": {"type": "boolean", "default": False}, AFTER: after}
    new = {column.name: example.get(column.name, []) for column in events}
    tree["paths"]["/v1/users/{user}/events"]["post"]["requestBody"] = _body(
        _object({"events": score["properties"][NEW_EVENTS], **more}, ["events"]), {"events": new, "whole": True}
    )
    path = _object({"path": {"type": "string"}}, [])
    tree["paths"]["/v1/reload"]["post"]["requestBody"] = _body(path, {"path": "exports/next"})
    return tree


def _response(text: str) -> dict[str, Any]:
    return {"description": text, "content": {"application/json": {"schema": _ERROR}}}


def _body(schema: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}


def _object(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _type(column: Column) -> dict[str, Any]:
    value: dict[str, Any] = {"type": "integer"}
    if column.kind in ("number", "score"):
        value = {"type": ["number", "null"]}
    elif column.kind == "id" and column.size is not None:
        value |= {"minimum": 0, "maximum": column.size - 1}
    for _ in range(column.is_list + column.nested):
        value = {"type": "array", "items": value}
    return value
