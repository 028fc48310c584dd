from pathlib import Path

import pytest

from dist_rec.data.build.config import BuildConfig, SourceConfig
from dist_rec.data.build.database import Database
from dist_rec.data.build.roles import USER
from dist_rec.data.build.rows import Asked, Rows, drop_duplicates, read_raw, read_values, text_tables
from dist_rec.data.build.sources import add_sources
from dist_rec.data.errors import DataError
from tests.data.build.small import ANCHORS, START, build, config

NUMBER = Asked("item", "item", "here.item", "id", "item", needed=True)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    (tmp_path / ".db").mkdir()
    return Database(tmp_path / ".db", "200MB", 1)


def read(
    database: Database, folder: Path, text: str, *asked: Asked, where: str | None = None, drop: bool = False
) -> Rows:
    (folder / "a.csv").write_text(text)
    source = add_sources(database, {"a": SourceConfig(files=["a.csv"])}, folder)["a"]
    rows = Rows("the rows", source, asked, "here", where)
    read_raw(database, rows)
    read_values(database, rows, text_tables(database, [rows]), drop=drop)
    return rows


def test_ids_are_numbers_unless_one_is_text(database: Database, tmp_path: Path) -> None:
    other = Asked("kind", "kind", "here.kind", "id", "kind")
    rows = read(database, tmp_path, "item,kind\n7,7\n8,x\n", NUMBER, other)
    assert database.rows(f"SELECT n, item, kind FROM {rows.table}", "read") == [(1, 7, "7"), (2, 8, "x")]
    assert rows.count == 2 and not rows.dropped


def test_a_bad_row_stops_with_its_place_or_is_counted(database: Database, tmp_path: Path) -> None:
    text = "item,score\n7,1\n,2\n8,x\n9,3\n"
    label = Asked("label", "score", "here.score", "label", at_least=2, needed=True)
    with pytest.raises(
        DataError, match=r"a\.csv, record 3, column item \(here\.item\): expected an id.*, got nothing; say"
    ):
        read(database, tmp_path, text, NUMBER, label)
    other = Database(tmp_path / ".db", "200MB", 1)
    other.run('DROP TABLE IF EXISTS "the rows, raw"; DROP TABLE IF EXISTS "the rows"; DROP VIEW a', "again")
    other.run('DROP VIEW "a and places"', "again")
    rows = read(other, tmp_path, text, NUMBER, label, drop=True)
    assert rows.dropped == {"item: missing": 1, "score: not a number": 1} and rows.count == 2
    assert other.rows(f"SELECT item, label FROM {rows.table}", "read") == [(7, 0), (9, 1)]


def test_lines_are_counted_as_in_the_file_also_where_some_rows_are_left_out(database: Database, tmp_path: Path) -> None:
    text = "item,kind\nx,no\n1,yes\n2,yes\n,yes\n"
    with pytest.raises(DataError, match=r"a\.csv, record 5, column item"):
        read(database, tmp_path, text, NUMBER, where="kind = 'yes'")


def test_ids_of_a_range_and_values_of_a_list(database: Database, tmp_path: Path) -> None:
    ranged = Asked("item", "item", "here.item", "id", "item", rows=5)
    with pytest.raises(DataError, match=r"expected an id from 0 to 4, got '5'"):
        read(database, tmp_path, "item\n4\n5\n", ranged)


def test_a_listed_value(database: Database, tmp_path: Path) -> None:
    listed = Asked("kind", "kind", "here.kind", "side", values=("it's", "b"))
    with pytest.raises(DataError, match=r"record 3, column kind \(here\.kind\): expected one of it's, b, got 'c'"):
        read(database, tmp_path, "kind\nit's\nc\n", listed)


def test_a_column_that_is_not_there_names_the_nearest(database: Database, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"here\.item: source 'a' has no column 'item'; did you mean 'items'\?"):
        read(database, tmp_path, "items\n1\n", NUMBER)


def test_a_condition_that_cannot_be_read(database: Database, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"here\.where: Parser Error"):
        read(database, tmp_path, "item\n1\n", NUMBER, where="item =")


def test_equal_rows_are_dropped(database: Database, tmp_path: Path) -> None:
    rows = read(database, tmp_path, "item,n\n7,a\n7,b\n8,a\n", NUMBER)
    assert drop_duplicates(database, rows) == 1 and rows.count == 2
    assert database.rows(f"SELECT n FROM {rows.table} ORDER BY n", "read") == [(1,), (3,)]


def test_users_may_be_text(tmp_path: Path) -> None:
    """Then rows are grouped by their number."""
    events = [{"user": "ann", "item": 1, "time": START, "kind": "a", "order": 0}]
    shown = [{**row, "user": "ann"} for row in ANCHORS]
    out = build(tmp_path / "rows", config(), events, shown)
    import pyarrow.parquet as pq

    assert set(pq.read_table(out / "train").column("user_key").to_pylist()) == {0}
    assert USER not in BuildConfig.model_validate(config()).table_names
