import lzma
from pathlib import Path

import pytest

from dist_rec.data.importers.source import is_there, line_error, read_fields, read_text, to_integers
from dist_rec.data.validate import DataError


@pytest.mark.parametrize("packed", [True, False])
def test_reads_plain_and_packed(tmp_path: Path, packed: bool) -> None:
    data = "id::name\n4::Amélie\n2.0::x\n".encode("iso-8859-1")
    (tmp_path / ("a.dat.xz" if packed else "a.dat")).write_bytes(lzma.compress(data) if packed else data)
    lines = read_fields(tmp_path, "a.dat", "::", 2, header=True, encoding="iso-8859-1")
    assert is_there(tmp_path, "a.dat") and not is_there(tmp_path, "b.dat")
    assert lines.column(1) == ["Amélie", "x"]
    assert lines.integers(0, "id").tolist() == [4, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n3\n", "line 2: expected 2 fields separated by ',', got 1 in '3'"),
        ("1,2\nx,4\n", "line 2: expected an integer as id, got 'x'"),
        ("1,2\n3.5,4\n", "line 2: expected an integer as id, got '3.5'"),
        ("1,2\ninf,4\n", "line 2: expected an integer as id, got 'inf'"),
        ("1,2\n99999999999999999999,4\n", "line 2: expected an integer as id, got '99999999999999999999'"),
        ("", "expected lines of text, got an empty file"),
    ],
)
def test_bad_lines(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=rf"a\.csv.*{message}"):
        read_fields(tmp_path, "a.csv", ",", 2).integers(0, "id")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"expected a file a\.csv or a\.csv\.xz, got neither"),
        (lzma.compress(b"1,2\n" * 100)[:-20], r"a\.csv\.xz: expected a readable text file"),
        (b"1,2\n", r"a\.csv\.xz: expected a readable text file"),
        (lzma.compress(b"\xff\xfe"), "expected a readable text file in utf-8"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a.csv.xz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_text(tmp_path, "a.csv")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "a.csv").touch()
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"a\.csv: cannot be read: Permission denied"):
        read_text(tmp_path, "a.csv")


def test_to_integers_reports_the_place() -> None:
    with pytest.raises(DataError, match="f, line 1: expected a number, got 'no'"):
        to_integers(["1", "no"], lambda place, got: line_error(Path("f"), place, "a number", got))


def test_long_lines_are_cut() -> None:
    assert len(str(line_error(Path("f"), 1, "x", "y" * 500))) < 150
