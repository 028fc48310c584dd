"""Requests from Python as rows of a dataset, checked with the same checks."""

from datetime import datetime, timezone
from typing import Any

import pyarrow as pa
import pytest

from dist_rec.data.errors import DataError
from dist_rec.data.schema import Schema
from dist_rec.predict.rows import valid_rows
from tests.data.requests import make_rows, make_schema, make_table

LABELS = ("candidate.click", "candidate.buy", "candidate.click.oracle", "candidate.buy.oracle")


def _unlabelled(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in LABELS}


SCHEMA = make_schema().without_labels()


def test_dicts_and_tables_are_the_same_rows_with_and_without_labels() -> None:
    rows = make_rows(9)
    found = valid_rows(rows, SCHEMA)
    assert not set(LABELS) & set(found.column_names)
    for requests in (list(map(_unlabelled, rows)), make_table(rows), make_table(rows).drop_columns(list(LABELS))):
        assert valid_rows(requests, SCHEMA).equals(found)


def test_no_requests_are_a_table_without_rows() -> None:
    assert valid_rows([], SCHEMA).num_rows == 0
    assert valid_rows([], SCHEMA).schema == valid_rows(make_rows(2), SCHEMA).schema


def test_times_may_be_datetimes_and_ids_have_no_sign() -> None:
    row = _unlabelled(make_rows(1)[0])
    moment = datetime(2024, 1, 1, tzinfo=timezone.utc)
    timed = row | {"time": moment, "history.time": [moment] * len(row["history.time"])}
    assert valid_rows([timed], SCHEMA).column("time").to_pylist() == [int(moment.timestamp())]
    schema = Schema.model_validate(make_schema().model_dump() | {"open_ids": {"user": "hashed"}}).without_labels()
    big = valid_rows([row | {"user": 2**64 - 1}], schema).column("user").to_pylist()
    assert big == [-1], "the same 64 bits"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"history.item": [50]}, r"row 1, field history.item: expected .* got 50"),
        ({"candidate.item": [1, 2, 3], "candidate.kind": [1]}, r"row 1, field candidate"),
        ({"history.item": None}, r"row 1, field history.item: expected a list, got null"),
        ({"user": "anna"}, r"field user: expected"),
        ({"user": None}, r"row 1, field user: .* got null"),
    ],
)
def test_a_wrong_value_is_told_with_its_row_and_field(change: dict[str, Any], message: str) -> None:
    rows = list(map(_unlabelled, make_rows(3)))
    rows[1] = {**rows[1], **change}
    with pytest.raises(DataError, match=message):
        valid_rows(rows, SCHEMA)


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        ([{"user": 1}], "row 0, field time: expected a value, got none beside user"),
        ([3], "row 0: expected a dict, got int"),
        ("abc", "expected a pyarrow.Table, or a list of one dict per request, got str"),
        ({"user": [1]}, "expected a pyarrow.Table, or a list of one dict per request, got dict"),
        (pa.table({"user": [1]}), "field time: expected a column of that name, got only user"),
    ],
)
def test_what_are_no_requests_is_said(requests: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        valid_rows(requests, SCHEMA)
