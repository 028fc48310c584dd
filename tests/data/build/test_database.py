from pathlib import Path

import pyarrow as pa
import pytest

from dist_rec.data.build.database import Database, first_line, literal, order_by, quoted
from dist_rec.data.errors import DataError


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(tmp_path, "200MB", 1)


def test_queries(database: Database) -> None:
    database.run('CREATE TABLE "a b" AS SELECT range AS x FROM range(5)', "made")
    assert database.columns(quoted("a b"), "looked") == {"x": "BIGINT"}
    assert database.one("SELECT sum(x) FROM " + quoted("a b"), "summed") == (10,)
    batches = list(database.stream("SELECT * FROM " + quoted("a b"), "streamed", 2))
    assert [value for batch in batches for value in batch.column("x").to_pylist()] == [0, 1, 2, 3, 4]


def test_names_and_texts_with_quotes(database: Database) -> None:
    text, name = literal("it's"), quoted('a "b"')
    assert database.rows(f"SELECT {text} AS {name}", "quoted") == [("it's",)]
    assert order_by(2) == 'o."order 0" NULLS FIRST, o."order 1" NULLS FIRST, o.n'


def test_an_error_is_one_sentence_that_says_where(database: Database) -> None:
    with pytest.raises(DataError, match=r"^looking: Catalog Error: Table with name nowhere does not exist!$"):
        database.run("SELECT * FROM nowhere", "looking")
    with pytest.raises(DataError, match=r"^looking: Conversion Error"):
        list(database.stream("SELECT CAST('x' || range AS INT) FROM range(3)", "looking", 1))


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^memory_limit=plenty: "):
        Database(tmp_path, "plenty", 1)


def test_too_little_memory_is_named(tmp_path: Path) -> None:
    database = Database(tmp_path, "20MB", 1)
    with pytest.raises(DataError, match=r"sorted: the limit of memory is too low for this; say --memory"):
        database.run("CREATE TABLE t AS SELECT list(range) AS x FROM range(20000000)", "sorted")


def test_an_error_of_csv_has_file_line_and_what_came() -> None:
    said = (
        "Invalid Input Error: CSV Error on Line: 3\nOriginal Line: 1,2\nExpected Number of Columns: 3 Found: 2\n"
        "Possible fixes:\n* this\n\n  file = /a/b.csv\n  delimiter = ,"
    )
    assert first_line(ValueError(said)) == "/a/b.csv, line 3: Expected Number of Columns: 3 Found: 2, got '1,2'"
    several = said.replace("1,2\nExpected", '1,"2\n3\n\nExpected')
    assert first_line(ValueError(several)).startswith(
        "/a/b.csv, line 3: Expected Number of Columns: 3 Found: 2, got '1,"
    )


def test_what_is_streamed_is_whole_whatever_else_is_asked(database: Database) -> None:
    database.run("CREATE TABLE kept (x BIGINT)", "made")
    seen = 0
    for batch in database.stream("SELECT range AS x FROM range(5000) ORDER BY x", "streamed", 100):
        database.insert("kept", pa.table({"x": batch.column("x")}), "inserted")
        seen += batch.num_rows
    assert seen == 5000 and database.one("SELECT count(*), sum(x) FROM kept", "counted") == (5000, 4999 * 2500)
