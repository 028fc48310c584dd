"""The page of a server: its example is one that works."""

from pathlib import Path

import pytest

from dist_rec.serve.cache import StateCache
from dist_rec.serve.server.app import create_app
from dist_rec.serve.server.live import Live
from dist_rec.serve.server.page import described
from dist_rec.serve.server.settings import Settings
from dist_rec.serve.service import Answer
from dist_rec.serve.user_states import UserStates
from tests.serve.exports import EVENTS, SCHEMA, write_export


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("page") / "export")


def test_columns_types_and_an_example(export: Path) -> None:
    app = create_app(export, Settings())
    running = Live(UserStates(StateCache(10**6)), Settings()).load(export)
    tree = described(app, running)
    assert tree["info"]["version"] == running.version
    assert tree["paths"].keys() == {
        *("/v1/score", "/v1/users/{user}/events", "/v1/users/{user}", "/v1/model", "/v1/reload"),
        *("/healthz", "/readyz", "/metrics"),
    }
    body = tree["paths"]["/v1/score"]["post"]["requestBody"]["content"]["application/json"]
    request = body["schema"]["properties"]["requests"]["items"]
    assert request["properties"]["user"] == {"type": "integer", "minimum": 0, "maximum": 999}
    assert request["properties"]["history.item"]["items"]["maximum"] == 49
    assert request["properties"]["new_events"]["properties"].keys() == set(EVENTS)
    assert request["required"] == [name for name in SCHEMA_NAMES if name not in EVENTS]
    reader = running.service.reader
    (found,) = running.service.handle([[reader.request(of) for of in body["example"]["requests"]]])
    assert isinstance(found, list) and isinstance(found[0], Answer)
    events = tree["paths"]["/v1/users/{user}/events"]["post"]["requestBody"]["content"]["application/json"]["example"]
    (found,) = running.service.handle([[reader.appended(5, events["events"], None, whole=True)]])
    assert isinstance(found, list) and isinstance(found[0], Answer)
    assert {"409", "422", "429", "503"} <= tree["paths"]["/v1/score"]["post"]["responses"].keys()


SCHEMA_NAMES = ["user", "time", *EVENTS, "candidate.item", "candidate.kind"]


def test_before_a_model_is_there(export: Path) -> None:
    tree = described(create_app(export, Settings()), None)
    assert tree["info"]["version"] == "none yet" and "requestBody" not in tree["paths"]["/v1/score"]["post"]
    assert SCHEMA.name == "small"
