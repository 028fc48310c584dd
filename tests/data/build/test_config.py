import datetime
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
        ({"split": {"by": "windows"}}, "every: expected it with by: windows"),
        ({"split": {"first": "1d", "valid": 0.1, "test": 0.1}}, "every: expected it with by: windows, and there only"),
        ({"split": {"by": "windows", "every": "1d", "valid": 0.1}}, "by: windows takes no valid and test"),
        ({"events": {"most": 5}, "histories": "once"}, "expected no most"),
        ({"requests": {"negatives": NEGATIVES["negatives"]}}, "sampled candidates have no labels of later events"),
        ({"split": {"by": "windows", "every": "1d"}}, "by: windows judges labels that are known at once, but bought"),
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
        ({"split": {"by": "last", "valid": 0.1}}, "by: last takes no valid and test"),
        ({"split": {"valid": 0.5, "test": 0.5}}, "shares of valid and test that leave some for training"),
        ({"split": {"valid": 0.5, "test": "2024-01-01"}}, "valid and test both as shares"),
        ({"split": {"by": "user", "valid": "2024-01-01", "test": "2024-01-02"}}, "valid and test both as shares"),
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


def test_dates_of_yaml_are_dates() -> None:
    split = {"valid": datetime.date(2024, 5, 1), "test": datetime.date(2024, 5, 8)}
    assert BuildConfig.model_validate(config(split=split)).split.valid == "2024-05-01"
