from typing import Any

import pytest

from dist_rec.common.strict import ConfigError, check
from dist_rec.data.attributes import AttributeField, every_attribute, lists_of_keys
from tests.data.kind_rows import kinds_schema
from tests.data.requests import make_schema


def test_lists_of_keys() -> None:
    tables = {"history.item": "item", "context.user": "user", "feedback.other": "item"}
    assert lists_of_keys(kinds_schema(), tables) == {
        f"{key}.{name}": (key, name) for key in ("history.item", "feedback.other") for name in ("genres", "makers")
    }
    assert lists_of_keys(make_schema(), tables) == {}


def test_every_attribute() -> None:
    schema = kinds_schema()
    names = [(table, name) for table, name, _ in every_attribute(schema)]
    assert names == [*(("item", name) for name in schema.attributes["item"]), ("user", "income")]


def test_the_layout_has_a_set_for_every_list() -> None:
    layout = kinds_schema().layout
    keys = ("history.item", "candidate.related")
    assert list(layout.attribute_lists) == [f"{key}.{name}" for key in keys for name in ("genres", "makers")]
    assert layout.id_lists == ("context.tags", "candidate.related") and layout.tables["context.tags"] == "genre"
    assert layout.owners["history.item.genres"].keys == ("history.item.genres",)
    assert layout.tables["history.item.genres"] == "genre" and layout.sizes["history.item.makers"] == 1000
    assert list(layout.sizes)[:4] == ["context.user", "history.item", "history.kind", "searches.query"]


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({}, "expected exactly one of number, list and vector, got none"),
        ({"vector": 3, "list": "genre"}, "got list and vector"),
        ({"vector": 3, "pool": "sum"}, "pool: sum is of the rows of a list"),
        ({"vector": 0}, "vector"),
        ({"list": "genre", "pool": "max"}, "pool"),
        ({"number": {"bounds": [2.0, 1.0]}}, "number: bounds: expected numbers that rise"),
        ({"text": "title"}, "text: unknown key"),
    ],
)
def test_what_is_no_attribute(tree: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check(AttributeField, tree, "here")
