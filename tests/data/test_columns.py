import numpy as np
import pyarrow as pa
import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.data.columns import (
    arrow_schema,
    columns_of,
    expand_ranges,
    list_column,
    one_array,
    ragged_values,
    scalar_values,
)
from tests.data.later import later_schema
from tests.data.requests import make_schema, seen_schema


def test_types_are_as_narrow_as_the_table() -> None:
    types = {
        field.name: field.type
        for field in arrow_schema(make_schema(tables={"item": 10**6, "kind": 5, "user": 1000, "query": 9}))
    }
    assert types["user"] == pa.int16() and types["time"] == pa.int64()
    assert types["history.item"] == pa.list_(pa.int32()) and types["history.kind"] == pa.list_(pa.uint8())
    assert types["candidate.click"] == pa.list_(pa.int8()) and types["candidate.click.oracle"] == pa.list_(pa.float32())


def test_group_of_its_own_and_seen() -> None:
    names = [column.name for column in columns_of(seen_schema())]
    assert names == [
        "user",
        "history.item",
        "history.correct",
        "candidate.item",
        "candidate.correct",
        "candidate.visible_events",
    ]


def test_what_comes_later_stands_behind() -> None:
    """Without the feedback columns where feedback is not read."""
    schema = later_schema()
    types = {field.name: field.type for field in arrow_schema(schema)}
    assert list(types)[-8:] == [
        "candidate.back.matured",
        "candidate.convert.delay",
        "candidate.feedback_events",
        *("feedback.item", "feedback.kind", "feedback.dwell", "feedback.page", "feedback.time"),
    ]
    assert types["candidate.back.matured"] == pa.list_(pa.int8())
    assert types["candidate.convert.delay"] == types["feedback.time"] == pa.list_(pa.int64())
    assert types["candidate.feedback_events"] == pa.list_(pa.int32())
    assert types["feedback.item"] == pa.list_(pa.uint8()) and types["feedback.page"] == pa.list_(pa.int16())
    served = [column.name for column in columns_of(schema.as_served())]
    assert served == list(types)[:-6] == [column.name for column in columns_of(schema.with_feedback(None))]
    untimed = columns_of(later_schema({"ids": ["kind"]}))
    assert [column.name for column in untimed][-2:] == ["candidate.feedback_events", "feedback.kind"]


def test_two_fields_of_one_name() -> None:
    schema = make_schema(candidate={"ids": ["item", "kind"], "labels": ["item"]})
    with pytest.raises(ConfigError, match=r"got several named candidate\.item"):
        columns_of(schema)


@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.large_list(pa.int64())])
def test_ragged_values_of_sliced_and_chunked_columns(kind: pa.DataType) -> None:
    lists = [[9, 9], [1, 2], [], [3]]
    table = pa.table({"x": pa.chunked_array([pa.array(lists, kind), pa.array([[4, 5, 6]], kind)])}).slice(1)
    ragged = ragged_values(table, "x")
    assert ragged.values.tolist() == [1, 2, 3, 4, 5, 6]
    assert ragged.offsets.tolist() == [0, 2, 2, 3, 6] and ragged.lengths.tolist() == [2, 0, 1, 3]
    assert [ragged.row_of(index) for index in range(6)] == [0, 0, 2, 3, 3, 3]


def test_boolean_lists_are_numbers() -> None:
    assert ragged_values(pa.table({"x": [[True, False]]}), "x").values.tolist() == [1, 0]


def test_scalars_and_arrays() -> None:
    table = pa.table({"x": pa.chunked_array([[1], [2, 3]])})
    assert scalar_values(table, "x").tolist() == [1, 2, 3]
    assert one_array(table.slice(0, 0), "x").to_pylist() == []


def test_list_column() -> None:
    assert list_column(np.array([2, 0, 1]), np.array([7, 8, 9])).to_pylist() == [[7, 8], [], [9]]


def test_expand_ranges() -> None:
    row, index = expand_ranges(np.array([10, 3, 20]), np.array([2, 0, 3]))
    assert row.tolist() == [0, 0, 2, 2, 2] and index.tolist() == [10, 11, 20, 21, 22]


def test_no_column_of_labels_is_there_where_they_are_not_read() -> None:
    schema = later_schema(oracle=True)
    labels = {column.name for column in columns_of(schema)} - {
        column.name for column in columns_of(schema.without_labels())
    }
    names = [f"candidate.{label}" for label in schema.candidate.labels]
    assert labels == {
        *names,
        *(f"{name}.oracle" for name in names),
        "candidate.back.matured",
        "candidate.convert.delay",
    }
    assert "labels_read" not in str(schema.without_labels().model_dump()), "nothing that a schema file says"
