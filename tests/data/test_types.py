"""What others write in other Arrow types is read as the writer's own, or refused in one sentence."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_rec.data.columns import arrow_schema, columns_of
from dist_rec.data.reader import RequestReader
from dist_rec.data.types import fits, has_zone, plain, wanted
from dist_rec.data.validate import DataError, validate
from tests.data.kind_rows import flat, kind_rows, kinds_schema
from tests.data.requests import make_rows, make_schema, make_table

NOW = 1_700_000_000
INTEGERS = [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(), pa.int8(), pa.int16(), pa.int32(), pa.int64()]
GROUPED = {"context": [], "tables": {"item": 50, "kind": 5, "query": 9}}


def _lists_of(value: pa.DataType) -> list[pa.DataType]:
    return [pa.list_(value), pa.large_list(value)]


def _with(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def _read(table: pa.Table, folder: Path, **schema: Any) -> pa.Table:
    """Written as it is, and back as the reader gives it to the batch."""
    (folder / "train").mkdir()
    pq.write_table(table, folder / "train" / "a.parquet")
    reader = RequestReader(folders=[folder / "train"], schema=make_schema(**schema), batch_size=99)
    next(iter(reader))
    return validate(table, make_schema(**schema), file="a.parquet", row_group=0)


@pytest.mark.parametrize("kind", INTEGERS, ids=str)
@pytest.mark.parametrize("name", ["user", "history.item", "history.action", "candidate.item", "candidate.click"])
def test_every_integer_and_list_type(tmp_path: Path, name: str, kind: pa.DataType) -> None:
    table = make_table(make_rows(7))
    values = table[name].cast(kind if name == "user" else pa.list_(kind))
    kinds = [kind, pa.dictionary(pa.int32(), kind)] if name == "user" else _lists_of(kind)
    for number, other in enumerate(kinds):
        (folder := tmp_path / str(number)).mkdir()
        cast = values.dictionary_encode() if pa.types.is_dictionary(other) else pa.array(values.to_pylist(), other)
        assert _read(_with(table, name, cast), folder).equals(table)


SCORED = {
    "sequences": [{"name": "history", "ids": ["item"], "score": True, "reason": True}],
    "candidate": {"ids": ["item"], "labels": ["click"]},
}


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()], ids=str)
def test_scores_and_reasons_of_events(tmp_path: Path, kind: pa.DataType) -> None:
    """Scores in half precision, whatever floats a file has; reasons are bits."""
    schema, names = make_schema(**SCORED), ("user", "time", "history.item", "candidate.item", "candidate.click")
    rows = [{name: row[name] for name in names} for row in make_rows(5)]
    scored = [r | {"history.score": [0.5] * len(r["history.item"])} for r in rows]
    scored = [r | {"history.reason": [31] * len(r["history.item"])} for r in scored]
    table = make_table(scored, schema)
    assert table.schema.field("history.score").type == pa.list_(pa.float16())
    assert table.schema.field("history.reason").type == pa.list_(pa.uint8())
    wide = _with(table, "history.score", table["history.score"].cast(pa.list_(kind)))
    assert _read(wide, tmp_path, **SCORED).equals(table)
    for name, values, said in (
        ("history.score", [1.5], "expected a score from 0 to 1, got 1.5 at entry 0"),
        ("history.score", [float("nan")], "expected a score from 0 to 1, got nan at entry 0"),
        ("history.reason", [32], "expected an id from 0 to 31, got 32 at entry 0"),
    ):
        row = next(r for r in scored if len(r["history.item"]) == 1)
        with pytest.raises(DataError, match=f"row 0, field {name}: {said}"):
            validate(make_table([row | {name: values}], schema), schema, file="a", row_group=0)
    integers = _with(table, "history.score", table["history.reason"])
    with pytest.raises(DataError, match=r"history.score: expected a list of floats, got list<"):
        validate(integers, schema, file="a", row_group=0)


def test_lists_of_one_length_and_lists_with_a_dictionary(tmp_path: Path) -> None:
    table = make_table([row | {"searches.query": [3, 8]} for row in make_rows(4)])
    (tmp_path / "a").mkdir()
    assert _read(
        _with(table, "searches.query", table["searches.query"].cast(pa.list_(pa.int16(), 2))), tmp_path / "a"
    ).equals(table)
    lists = table["history.item"].combine_chunks()
    coded = pa.ListArray.from_arrays(lists.offsets, lists.values.dictionary_encode())
    (tmp_path / "b").mkdir()
    assert _read(_with(table, "history.item", coded), tmp_path / "b").equals(table)


@pytest.mark.parametrize("row", [0, 1, 4])
@pytest.mark.parametrize("row_group", [0, 1])
def test_a_null_among_lists_of_one_length_is_named(tmp_path: Path, row: int, row_group: int) -> None:
    table = make_table([row | {"searches.query": [3, 8]} for row in make_rows(10)])
    lists: list[list[int] | None] = [[3, 8]] * 10
    lists[5 * row_group + row] = lists[9] = None
    table = _with(table, "searches.query", pa.array(lists, pa.list_(pa.int16(), 2)))
    (tmp_path / "train").mkdir()
    pq.write_table(table, tmp_path / "train" / "a.parquet", row_group_size=5)
    message = f"row group {row_group}, row {row}, field searches.query: expected a list, got null$"
    with pytest.raises(DataError, match=f"a.parquet, {message}"):
        list(RequestReader(folders=[tmp_path / "train"], schema=make_schema(), batch_size=99))
    with pytest.raises(DataError, match=f"^f, {message}"):
        validate(table.slice(5 * row_group, 5), make_schema(), file="f", row_group=row_group)


def test_a_list_column_without_any_entry_has_no_type_of_its_own(tmp_path: Path) -> None:
    table = make_table([row | {"searches.query": []} for row in make_rows(3)])
    untyped = pa.array([[], [], []])
    assert pa.types.is_null(untyped.type.value_type)
    assert _read(_with(table, "searches.query", untyped), tmp_path).equals(table)


@pytest.mark.parametrize("name", ["user", "time", "history.item", "history.time", "candidate.click"])
def test_nulls_of_a_column_without_a_type_are_named(name: str) -> None:
    table = make_table(make_rows(3))
    nulls = pa.nulls(3) if name in ("user", "time") else pa.array([[None]] * 3)
    with pytest.raises(DataError, match=f"f, row group 0, row 0, field {name}: expected a value.*, got null"):
        validate(_with(table, name, nulls), make_schema(), file="f", row_group=0)


@pytest.mark.parametrize(
    ("values", "kind", "found"),
    [
        ([2**64 - 1, 2**63, 2**63 - 1, 5], pa.uint64(), [-1, -(2**63), 2**63 - 1, 5]),
        ([-(2**63), -1, 0, 2**63 - 1], pa.int64(), [-(2**63), -1, 0, 2**63 - 1]),
        ([0, 2**32 - 1, 1, 2], pa.uint32(), [0, 2**32 - 1, 1, 2]),
    ],
)
def test_a_group_may_have_any_64_bits(tmp_path: Path, values: list[int], kind: pa.DataType, found: list[int]) -> None:
    rows = make_rows(4)
    table = _with(make_table(rows, make_schema(**GROUPED)), "user", pa.array(values, kind))
    assert _read(table, tmp_path, **GROUPED)["user"].to_pylist() == found
    batch = next(iter(RequestReader(folders=[tmp_path / "train"], schema=make_schema(**GROUPED), batch_size=9)))
    assert batch.tensors["grouping_key"].tolist() == found


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_timestamps_become_seconds(tmp_path: Path, unit: str, zone: str | None) -> None:
    """The same moments in any zone; parts of a second are dropped."""
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    table = make_table([row | {"time": NOW} | _events(NOW - 5, NOW) for row in make_rows(3)])
    moments = (np.array([NOW] * 3) * scale + (scale // 2)).tolist()
    other = _with(table, "time", pa.array(moments, pa.timestamp(unit, zone)))
    past = pa.array([[(NOW - 5) * scale + scale // 3, NOW * scale]] * 3, pa.list_(pa.timestamp(unit, zone)))
    assert _read(_with(other, "history.time", past), tmp_path).equals(table)


def test_dates_become_seconds(tmp_path: Path) -> None:
    table = make_table(
        [row | {"time": 19_700 * 86_400} | _events(19_690 * 86_400, 19_699 * 86_400) for row in make_rows(2)]
    )
    for number, kind in enumerate((pa.date32(), pa.date64())):
        other = _with(table, "time", pa.array([19_700] * 2, pa.int32()).cast(pa.date32()).cast(kind))
        days = pa.array([[19_690, 19_699]] * 2, pa.list_(pa.int32())).cast(pa.list_(pa.date32())).cast(pa.list_(kind))
        (tmp_path / str(number)).mkdir()
        assert _read(_with(other, "history.time", days), tmp_path / str(number)).equals(table)


def _events(*times: int) -> dict[str, list[int]]:
    two = {f"history.{name}": [1] * len(times) for name in ("item", "kind", "action", "page")}
    return two | {"history.time": list(times)}


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("user", pa.array([1.0, 2.0]), "field user: expected integers, got double"),
        ("user", pa.array(["1", "2"]), "field user: expected integers, got string"),
        ("user", pa.array([True, False]), "field user: expected integers, got bool"),
        ("user", pa.array([1, 2]).cast(pa.decimal128(20, 0)), "field user: expected integers, got decimal"),
        ("time", pa.array([1.0, 2.0]), r"field time: expected integers \(seconds\) or timestamps, got double"),
        ("time", pa.array(["a", "b"]).dictionary_encode(), "field time: expected integers .* got dictionary"),
        ("time", pa.array([1, 2], pa.duration("s")), "field time: expected integers .* got duration"),
        (
            "time",
            pa.array([2**63 + 5] * 2, pa.uint64()),
            "field time: expected a time in seconds .* got 9223372036854775813",
        ),
        ("time", pa.array([5, -(2**63)]), "field time: expected a time in seconds .* got -9223372036854775808"),
        (
            "history.item",
            pa.array([[[1]], [[2]]]),
            "field history.item: expected a list of integers, got list<element: list",
        ),
        (
            "history.item",
            pa.array([[1], [2]], pa.list_view(pa.int64())),
            "field history.item: expected a list of integers, got list_v",
        ),
        (
            "history.item",
            pa.array([["a"], ["b"]]),
            "field history.item: expected a list of integers, got list<element: string>",
        ),
        (
            "history.time",
            pa.array([[1.5], [2]]),
            r"a list of integers \(seconds\) or timestamps, got list<element: double>",
        ),
        ("candidate.click", pa.array([["a"], ["b"]]), "expected a list of 0/1 numbers, got list<element: string>"),
        ("candidate.click.oracle", pa.array([[1], [0]]), "expected a list of floats, got list<element: int64>"),
        (
            "history.item",
            pa.array([[2**64 - 1], [0]], pa.list_(pa.uint64())),
            "row 0, .* from 0 to 49, got 18446744073709551615",
        ),
        ("history.action", pa.array([[0], [256]]), "row 1, field history.action: expected an id from 0 to 3, got 256"),
        ("user", pa.array([2**32 + 1, 1]), "row 0, field user: expected an id from 0 to 999, got 4294967297"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_one_sentence(tmp_path: Path, name: str, values: pa.Array, message: str) -> None:
    table = _with(make_table(make_rows(2)), name, values)
    (tmp_path / "train").mkdir()
    pq.write_table(table, tmp_path / "train" / "a.parquet")
    with pytest.raises(DataError, match=rf"a\.parquet.*{message}") as caught:
        list(RequestReader(folders=[tmp_path / "train"], schema=make_schema(), batch_size=4))
    assert "\n" not in str(caught.value)


def test_an_unknown_group_type_is_answered_with_what_to_do() -> None:
    (group,) = [column for column in columns_of(make_schema(**GROUPED)) if column.kind == "grouping_key"]
    assert not fits(group, pa.string()) and "hash them to 64 bits" in wanted(group)


def test_zones_must_agree() -> None:
    assert [has_zone(kind) for kind in (pa.int64(), pa.timestamp("s"), pa.list_(pa.timestamp("s", "UTC")))] == [
        None,
        False,
        True,
    ]
    table = make_table([row | {"time": NOW} | _events(NOW) for row in make_rows(2)])
    table = _with(table, "time", pa.array([NOW] * 2, pa.timestamp("s", "UTC")))
    table = _with(table, "history.time", pa.array([[NOW]] * 2, pa.list_(pa.timestamp("s"))))
    with pytest.raises(
        DataError, match=r"field history.time: expected timestamps with a time zone, as time has, got none"
    ):
        validate(table, make_schema(), file="f", row_group=0)


def test_columns_that_are_plain_already_are_not_copied() -> None:
    table = make_table(make_rows(5))
    same = plain(table, make_schema())
    assert same.schema == arrow_schema(make_schema())
    assert all(
        same[name].chunk(0) is table[name].chunk(0) or same[name].equals(table[name]) for name in table.column_names
    )


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.int8(), pa.uint8(), pa.int32(), pa.int64(), pa.uint64()),
        *(pa.float16(), pa.float32(), pa.float64(), pa.decimal128(25, 3), pa.decimal256(40, 2)),
    ],
    ids=str,
)
def test_a_number_may_have_any_type(kind: pa.DataType) -> None:
    schema, rows = kinds_schema(), kind_rows(6)
    rows = [row | {"of_price": n, "history.price": [7] * len(row["history.item"])} for n, row in enumerate(rows)]
    table = make_table(rows, schema)
    table = _with(table, "of_price", table["of_price"].cast(kind))
    lists = table["history.price"].combine_chunks()
    values = pa.array([None, *[7] * (len(lists.values) - 1)]).cast(kind)
    wide = pa.LargeListArray.from_arrays(lists.offsets.cast(pa.int64()), values)
    found = validate(_with(table, "history.price", wide), schema, file="f", row_group=0)
    assert found["of_price"].to_pylist() == list(range(6)) and found["of_price"].type == pa.float32()
    first, *others = flat(found.to_pylist(), "history.price").tolist()
    assert first != first and set(others) == {7.0}


@pytest.mark.parametrize("kind", [pa.string(), pa.bool_(), pa.timestamp("s")], ids=str)
def test_what_is_no_number(kind: pa.DataType) -> None:
    table = _with(make_table(kind_rows(3), kinds_schema()), "of_price", pa.nulls(3, kind))
    with pytest.raises(DataError, match="field of_price: expected numbers, got "):
        validate(table, kinds_schema(), file="f", row_group=0)


@pytest.mark.parametrize("value", [pa.uint8(), pa.int64(), pa.uint64()], ids=str)
@pytest.mark.parametrize("outer", [pa.list_, pa.large_list], ids=["list", "large"])
@pytest.mark.parametrize("inner", [pa.list_, pa.large_list], ids=["list", "large"])
def test_lists_of_lists_may_have_any_types(outer: Any, inner: Any, value: pa.DataType) -> None:
    schema, rows = kinds_schema(), kind_rows(6)
    table = make_table(rows, schema)
    related = pa.array([row["candidate.related"] for row in rows], outer(inner(value)))
    found = validate(_with(table, "candidate.related", related), schema, file="f", row_group=0)
    assert found["candidate.related"].to_pylist() == [row["candidate.related"] for row in rows]
    assert found["candidate.related"].type == pa.list_(pa.list_(pa.uint8()))


def test_lists_of_lists_without_any_entry() -> None:
    schema = kinds_schema()
    rows = [row | {"candidate.related": [[] for _ in row["candidate.item"]]} for row in kind_rows(3)]
    none = [{n: [] if n.startswith("candidate") else v for n, v in row.items()} for row in kind_rows(3)]
    for given in (rows, none):
        table = make_table(given, schema)
        untyped = pa.array([row["candidate.related"] for row in given])
        found = validate(_with(table, "candidate.related", untyped), schema, file="f", row_group=0)
        assert found.schema == table.schema


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.int64(), pa.list_(pa.list_(pa.string()))], ids=str)
def test_what_is_no_list_of_lists(kind: pa.DataType) -> None:
    table = _with(make_table(kind_rows(3), kinds_schema()), "candidate.related", pa.nulls(3, kind))
    with pytest.raises(DataError, match=r"field candidate.related: expected a list of lists of integers, got "):
        validate(table, kinds_schema(), file="f", row_group=0)
