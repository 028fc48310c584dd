import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_rec.data.build.config import SourceConfig
from dist_rec.data.build.database import Database
from dist_rec.data.build.sources import Source, add_sources, check_readable, files_of
from dist_rec.data.errors import DataError


def add(folder: Path, **sources: object) -> tuple[Database, dict[str, Source]]:
    (folder / ".db").mkdir(exist_ok=True)
    database = Database(folder / ".db", "200MB", 1)
    configs = {name: SourceConfig.model_validate(of) for name, of in sources.items()}
    return database, add_sources(database, configs, folder)


def rows(folder: Path, **sources: object) -> list[tuple]:
    database, found = add(folder, **sources)
    return database.rows(f"SELECT * FROM {next(iter(found))}", "read")


def test_files_folders_and_globs_in_order(tmp_path: Path) -> None:
    for name in ("b/2.csv", "b/1.csv", "b/.hidden.csv", "b/_more/3.csv", "b/deep/4.csv", "c.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a\n1\n")
    found = files_of(["b", "c.csv", "*.csv"], tmp_path, "here")
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["b/1.csv", "b/2.csv", "b/deep/4.csv", "c.csv"]
    with pytest.raises(DataError, match=r"here: expected files at .*nothing\*, got none"):
        files_of(["nothing*"], tmp_path, "here")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"x,y\n1,\xc3\xa9\n"),
        ("a.csv", b"\xef\xbb\xbfx,y\n1,\xc3\xa9\n"),
        ("a.csv", b'"x","y"\r\n"1","\xc3\xa9"\r\n'),
        ("a.tsv", b"x\ty\n1\t\xc3\xa9"),
        ("a.csv.gz", gzip.compress(b"x;y\n1;\xc3\xa9\n")),
    ],
    ids=["plain", "mark of byte order", "quoted, CRLF", "tabs, no last line break", "packed"],
)
def test_texts(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert rows(tmp_path, it=name) == [("1", "é")]


def test_options_of_text(tmp_path: Path) -> None:
    (tmp_path / "a.dat").write_bytes("1::NA\n2::é\n".replace("::", "|").encode("latin-1"))
    of = {"files": "a.dat", "format": "csv", "header": False, "columns": ["x", "y"], "encoding": "latin-1"}
    database, _ = add(tmp_path, it=of | {"null": ["NA"]}, whole=of)
    assert database.rows("SELECT * FROM it", "read") == [("1", None), ("2", "é")]
    assert database.rows("SELECT * FROM whole", "read") == [("1", "NA"), ("2", "é")]


def test_parquet_keeps_its_types_and_has_rows(tmp_path: Path) -> None:
    for number in range(2):
        pq.write_table(pa.table({"x": pa.array([number], pa.uint64())}), tmp_path / f"{number}.parquet")
    database, found = add(tmp_path, it="*.parquet")
    assert found["it"].columns == {"x": "UBIGINT"} and found["it"].rows_known
    places = database.rows(f"SELECT * FROM {found['it'].with_places}", "read")
    assert [(x, Path(file).name, row) for x, file, row in places] == [(0, "0.parquet", 0), (1, "1.parquet", 0)]


def test_a_query_over_others(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n2\n")
    database, found = add(tmp_path, twice={"query": "SELECT x::INT * 2 AS y FROM it;"}, it="a.csv")
    assert list(found) == ["twice", "it"] and found["twice"].columns == {"y": "INTEGER"}
    assert database.rows("SELECT * FROM twice", "read") == [(2,), (4,)]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a.csv": b""}, r"a\.csv, line 1: expected the names of the columns or values, got nothing"),
        ({"a.csv": b"x,x\n1,2\n"}, r"a\.csv, line 1: expected a name of its own for every column, got 'x'"),
        (
            {"a.csv": b"x,y\n1,2\n", "b.csv": b"x,z\n1,2\n"},
            r"b\.csv, line 1: expected the columns of .*a\.csv, x, y, got x, z",
        ),
        ({"a.csv": b"x,y\n1,\xe9\n"}, r"a\.csv, line 2: expected text in utf-8, got the byte 0xe9; say encoding"),
        ({"a.parquet": b"PAR1"}, r"a\.parquet: expected a whole Parquet file, got 4 bytes"),
        ({"a.csv": b"x,y\n", "b.parquet": b""}, "expected files of one kind"),
        ({"a.json": b"{}"}, r"a\.json: expected a name that ends in one of \.csv, \.tsv"),
        ({"a.csv.gz": gzip.compress(b"x,y\n1,2\n" * 99)[:30]}, r"a\.csv\.gz: expected readable text, got: "),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        add(tmp_path, it="a.*" if len(files) == 1 else "[ab].*")


def test_a_torn_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y,z\n1,2,3\n4,5")
    with pytest.raises(DataError, match=r"read: .*a\.csv, line 3: Expected Number of Columns: 3 Found: 2, got '4,5'"):
        rows(tmp_path, it="a.csv")


def test_files_of_one_source_have_the_same_types(tmp_path: Path) -> None:
    """DuckDB would cast the second to the first, and round."""
    for name, values in (("a", [1, 2]), ("b", [1.5, 2.5])):
        pq.write_table(pa.table({"x": values}), tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match=r"b\.parquet, column x: expected int64, as in .*a\.parquet, got double"):
        add(tmp_path, it="*.parquet")


def test_queries_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n")
    second, first = {"query": "SELECT * FROM first"}, {"query": "SELECT x || '!' AS y FROM it"}
    database, _ = add(tmp_path, second=second, first=first, it="a.csv")
    assert database.rows("SELECT * FROM second", "read") == [("1!",)]


def test_a_column_may_be_called_filename(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("filename,x\nme,1\n")
    assert rows(tmp_path, it="a.csv") == [("me", "1")]


def test_a_torn_page_is_named_with_its_file_and_row_group(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": range(3000), "b": range(3000)}), tmp_path / "a.parquet", row_group_size=1000)
    pq.write_table(pa.table({"a": range(3000), "b": range(3000)}), tmp_path / "b.parquet", row_group_size=1000)
    of = pq.read_metadata(tmp_path / "b.parquet").row_group(1).column(0)
    content = bytearray((tmp_path / "b.parquet").read_bytes())
    start = of.dictionary_page_offset or of.data_page_offset
    content[start : start + 40] = b"\xff" * 40
    (tmp_path / "b.parquet").write_bytes(content)
    _, found = add(tmp_path, logs="*.parquet")
    check_readable(found["logs"], ["b"])
    with pytest.raises(DataError, match=r"b\.parquet, row group 1: expected readable columns a, b, got: "):
        check_readable(found["logs"], ["a", "b"])
