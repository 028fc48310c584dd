from typing import Any

import pytest

from dist_rec.common.strict import ConfigError, check
from dist_rec.data.build.config import BuildConfig, SourceConfig
from tests.data.build.small import config


def test_bare_names_are_columns_and_paths() -> None:
    built = BuildConfig.model_validate(config())
    assert built.sequences["history"].ids["item"].column == "item" and built.sequences["history"].time.unit == "auto"
    assert built.sources["events"].files == ["events.*"]
    assert SourceConfig.model_validate(["a", "b"]).files == ["a", "b"]
    assert built.table_names == ["item"] and built.split.valid == "2023-11-14T22:13:40Z"


CLICKS: dict[str, Any] = {"labels": {"click": "click"}}
NEGATIVES: dict[str, Any] = {"negatives": {"sample": "uniform", "count": 2}} | CLICKS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": {"events": {}, "shown": "b"}}, "sources.events: expected either files or a query, got neither"),
        ({"sources": {"events": {"files": "a", "query": "b"}, "shown": "b"}}, "either files or a query, got both"),
        ({"sources": {"events": {"files": "a", "header": False}, "shown": "b"}}, "columns: expected the names"),
        ({"sources": {"events": {"files": "a", "columns": ["x"]}, "shown": "b"}}, "columns: expected none"),
        (
            {"sources": {"my events": "a", "events": "a", "shown": "b"}},
            "sources: 'my events' cannot be a name here",
        ),
        ({"events": {"source": "clicks"}}, "sequences.history: no source 'clicks'; these are: events, shown"),
        ({"requests": {"source": "clicks"}}, "requests: no source 'clicks'"),
        ({"requests": {"labels": {"buy": {"source": "x", "user": "u", "time": "t", "within": 1}}}}, "no source 'x'"),
        ({"requests": {"labels": {"buy": {"source": "events", "user": "u"}}}}, "missing: time, within"),
        ({"requests": {"labels": {"buy": {"column": "b", "within": 5}}}}, "either a column, or a source"),
        ({"requests": {"labels": {"buy": {}}}}, "either a column, or a source"),
        ({"requests": {"labels": {"buy": {"column": "b", "where": "x"}}}}, "match and where are of labels of later"),
        ({"attributes": {"shown": {"key": "a", "of": "brand"}}}, "no field uses the table 'brand'; these are: item"),
        ({"tables": {"brand": {}}}, "no field uses the table 'brand'"),
        ({"tables": {"item": {"ids": "range"}}}, "rows: expected them with ids: range"),
        ({"tables": {"item": {"rows": 5}}}, "rows: expected them with ids: range, hashed or dynamic, and only there"),
        ({"events": {"side": {"item": "kind"}}}, "sequences.history: expected every name once, got 'item'"),
        ({"events": {"most": 5}, "histories": "once"}, "expected no most"),
        ({"requests": {"negatives": NEGATIVES["negatives"]}}, "sampled candidates have no labels of later events"),
        ({"events": {"ids": {"offsets": "item"}}}, "sequences.history: 'offsets' cannot be a name here"),
        ({"events": {"ids": {"item": {"column": "item", "table": "a/b"}}}}, "tables: 'a/b' cannot be a name here"),
        ({"requests": {"context": {"time": "time"}}}, "requests.context: 'time' cannot be a name here"),
        ({"sources": {"events": "a", "Events": "b", "shown": "c"}}, "names differ in more than capitals"),
        ({"time": {"column": "time", "zone": "Mars/X"}}, "expected a zone such as Europe/Berlin, got 'Mars/X'"),
        (
            {
                "attributes": {"shown": {"key": "item", "of": "item"}},
                "events": {"numbers": {"price": "shown.price"}},
            },
            "sequences.history.price: 'shown.price' belongs to ids; expected it under numbers of its attributes",
        ),
        ({"requests": {"negatives": {"sample": "page"}}}, "sample: page needs keep, and no count"),
        ({"requests": {"negatives": {"sample": "uniform", "keep": 0.5}}}, "sample: uniform needs count, and no keep"),
        (
            {"requests": NEGATIVES | {"ids": {"item": "item", "kind": "kind"}}},
            "a sampled candidate has nothing but attributes of its item, and requests.kind is read from 'kind'",
        ),
        (
            {
                "requests": NEGATIVES,
                "tables": {"item": {"ids": "range", "rows": 9}},
            },
            "'item' needs a vocabulary to sample from",
        ),
        (
            {
                "attributes": {"shown": {"key": "item", "of": "item"}},
                "requests": {"context": {"city": "shown.city"}},
            },
            "requests.context.city: shown.city is of table 'item', but no field beside it has ids of this table",
        ),
    ],
)
def test_build_files_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(BuildConfig, config(**changes), "build.yaml")


VISIBLE: dict[str, Any] = {"visible_events": True} | CLICKS


@pytest.mark.parametrize(
    ("requests", "events", "message"),
    [
        ({}, {"times": True}, "sequences.history.times: with requests.visible_events expected times: false"),
        ({}, {"most": 5}, "sequences.history.most: with requests.visible_events expected none"),
        ({"cyclic": True}, {}, "requests.cyclic: with requests.visible_events expected false"),
        ({"most": 5}, {}, "requests.most: with requests.visible_events expected none"),
        ({"negatives": {"sample": "page", "keep": 0.5}}, {}, "requests.negatives: with requests.visible_events"),
        ({"labels": config()["requests"]["labels"]}, {}, "requests.labels: with requests.visible_events"),
    ],
)
def test_what_candidates_with_events_of_their_own_cannot_have(
    requests: dict[str, Any], events: dict[str, Any], message: str
) -> None:
    check(BuildConfig, config(requests=VISIBLE, events={"times": False}), "build.yaml")
    with pytest.raises(ConfigError, match=message):
        check(BuildConfig, config(requests=VISIBLE | requests, events={"times": False} | events), "build.yaml")


def test_candidates_see_events_of_one_sequence() -> None:
    tree = config(requests=VISIBLE, events={"times": False})
    tree["sequences"]["other"] = tree["sequences"]["history"]
    with pytest.raises(
        ConfigError, match=r"requests\.visible_events: expected exactly one sequence, got history, other"
    ):
        check(BuildConfig, tree, "build.yaml")
