from typing import Any

import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.data.kinds import (
    SentKinds,
    attributes_of_keys,
    check_fitted,
    grouped_kinds,
    named_numbers,
    numbers_of,
    request_features,
)
from tests.data.kind_rows import NUMBERS, kinds_schema
from tests.data.requests import make_schema

HISTORY = [{"name": "history", "ids": ["item"]}]
ITEMS = ("history.item", "candidate.related")
OPEN_ITEMS = {"item": {"rows": 9, "ids": "hashed"}, "kind": 5, "user": 1000, "query": 9}
CANDIDATE = {"ids": ["item"], "labels": ["click"]}


def test_names_and_places() -> None:
    schema = kinds_schema()
    assert list(numbers_of(schema)) == ["request", "history", "searches", "candidate"]
    names = list(named_numbers(schema))
    of_ids, names = names[:3], names[3:]
    assert of_ids == ["attributes.item.year", "attributes.item.shelf", "attributes.user.income"]
    assert names[:3] == ["context.of_price", "context.of_stay", "context.of_rank"]
    assert names[3:] == [f"history.{n}" for n in NUMBERS] + ["searches.stay"] + [f"candidate.{n}" for n in NUMBERS]
    assert request_features(schema) == ["of_price", "of_stay", "of_rank", "time"]
    assert grouped_kinds(schema) == [*request_features(schema), "tags"]
    assert schema.grouped_fields[:6] == [f"context.{name}" for name in ("user", *grouped_kinds(schema))]
    assert schema.grouped_fields[6:] == [f"candidate.{name}" for name in ("item", "kind", *NUMBERS, "related")]
    assert schema.side_values(schema.candidate) == {"rank": 5}


def test_attributes_belong_to_keys() -> None:
    """Of ids, not of the ids of their lists: a genre in a list would need its own attributes."""
    tables = {"item": 50, "kind": 5, "user": 1000, "query": 9}
    schema = make_schema(tables=tables, attributes={"item": {"more": {"list": "item"}}, "query": {"n": {"vector": 2}}})
    assert attributes_of_keys(schema) == {
        "history.item": schema.attributes["item"],
        "searches.query": schema.attributes["query"],
    }
    assert attributes_of_keys(make_schema()) == {}


def test_what_is_sent() -> None:
    kinds = SentKinds.of(kinds_schema())
    assert kinds.numbers["history"] == kinds.numbers["candidate"] == ("price", "stay")
    assert kinds.buckets == ("of_rank",) and kinds.has_request
    assert kinds.attributes == {"context.user": ("income",), **dict.fromkeys(ITEMS, ("year", "shelf", "title"))}
    assert kinds.lists == {"context.user": (), **dict.fromkeys(ITEMS, ("genres", "makers"))}
    assert kinds.id_lists == ("context.tags", "candidate.related")
    assert SentKinds.of(make_schema()) == SentKinds({"request": (), "history": (), "searches": (), "candidate": ()})


def test_the_model_needs_a_fit() -> None:
    check_fitted(kinds_schema())
    check_fitted(make_schema())
    request = {"grouping_key": "user", "time": "time", "numbers": {"of": {}}}
    candidate = CANDIDATE | {"numbers": {"price": {"encoding": "value"}}}
    schema = kinds_schema(request=request, candidate=candidate, feature_groups={})
    with pytest.raises(ConfigError, match=r"context.of, candidate.price; run `dist-rec data fit"):
        check_fitted(schema)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"candidate": CANDIDATE | {"numbers": {"item": {}}}}, "candidate: expected every name once, got 'item'"),
        ({"candidate": CANDIDATE | {"side": {"x": 2}, "numbers": {"x": {}}}}, "candidate: .* got 'x' 2 times"),
        ({"candidate": CANDIDATE | {"numbers": {"keys": {}}}}, "candidate.numbers: 'keys' cannot be a name"),
        ({"request": {"grouping_key": "g", "time": "t", "numbers": {"user": {}}}}, "request: .* got 'user' 2 times"),
        (
            {"request": {"grouping_key": "g", "time": "t", "cyclic": True, "numbers": {"t": {}}}},
            "request: .* got 't' 2 times",
        ),
        ({"request": {"grouping_key": "g", "time": "a.b", "cyclic": True}}, "request.time: 'a.b' cannot be a name"),
        (
            {"candidate": CANDIDATE | {"numbers": {"x": {"encoding": "buckets", "bounds": list(range(2**15))}}}},
            "at most 32766 bounds",
        ),
        ({"candidate": CANDIDATE | {"lists": {"item": "item"}}}, "candidate: .* got 'item' 2 times"),
        ({"candidate": CANDIDATE | {"lists": {"x": "y"}}}, "candidate.x: table 'y' is not declared; declared: item"),
        ({"request": {"grouping_key": "g", "lists": {"user": "item"}}, "sequences": HISTORY}, "request: .* got 'user'"),
        ({"attributes": {"items": {}}}, "attributes.items: table 'items' is not declared; declared: item, kind"),
        ({"attributes": {"item": {"x": {"list": "y"}}}}, "attributes.item.x: table 'y' is not declared"),
        ({"attributes": {"item": {"a.b": {"vector": 2}}}}, "attributes.item: 'a.b' cannot be a name here"),
        ({"attributes": {"item": {"ngram": {"vector": 2}}}}, "attributes.item: 'ngram' is a word of n-grams"),
        (
            {"tables": OPEN_ITEMS, "attributes": {"item": {"ids": {"vector": 2}}}},
            "attributes.item: 'ids' is the file of the ids; expected another name",
        ),
        (
            {"tables": OPEN_ITEMS, "attributes": {"kind": {"x": {"list": "item"}}}},
            "attributes.kind.x: expected a table with ids: range, got hashed ids of item",
        ),
    ],
)
def test_what_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_schema(**changes)
