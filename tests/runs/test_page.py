"""The same report on a terminal and as a page that needs no other file."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from dist_rec.data.errors import DataError
from dist_rec.runs.find import find_runs
from dist_rec.runs.page import show, write_page
from dist_rec.runs.report import Report, report
from tests.runs.folders import write_run


@pytest.fixture
def found(tmp_path: Path) -> Report:
    write_run(tmp_path / "runs" / "a[b]<i>", 0.7)
    write_run(tmp_path / "runs" / "c", 0.8, optim={"lr": 0.5})
    (tmp_path / "runs" / "c" / "run.json").write_text("{")
    (tmp_path / "runs" / "empty").mkdir()
    runs = find_runs(tmp_path / "runs")
    return report(runs.runs, runs.others, [], compared=True)


def test_the_terminal(found: Report) -> None:
    out = io.StringIO()
    show(found, Console(file=out, width=80))
    for told in ("A a[b]<i>", "optim.lr", "too few seeds to tell", "warning: ", "run.json: damaged", "empty: no run"):
        assert told in out.getvalue(), "a pipe has no width that breaks words"


@pytest.mark.parametrize(
    ("width", "hidden"), [(110, ""), (100, "commit"), (81, "commit, started"), (80, "commit, started, samples")]
)
def test_a_narrow_terminal_does_without_some_columns(found: Report, width: int, hidden: str) -> None:
    out = io.StringIO()
    show(found, Console(file=out, width=width, force_terminal=True, color_system=None))
    listed = out.getvalue().split("What differs")[0]
    assert ("abc1234" in listed) == (not hidden) and ("2026-11-01 12:00" in listed) == ("started" not in hidden)
    assert "0.6500" in listed and ("960" in listed) == ("samples" not in hidden)
    assert f"Not shown in {width} characters: {hidden}." in out.getvalue() or not hidden


def test_the_page_holds_its_picture(found: Report, tmp_path: Path) -> None:
    page = write_page(found, "runs & more", tmp_path / "page")
    assert (tmp_path / "page" / "runs.png").read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert page.name == "runs.html" and "data:image/png;base64,iVBOR" in text and "http" not in text
    for told in ("runs &amp; more", "a[b]&lt;i&gt;", "Metrics: test, click", "too few seeds", "empty: no run"):
        assert told in text
    assert "<i>" not in text


def test_a_place_that_cannot_be_written(found: Report, tmp_path: Path) -> None:
    (tmp_path / "page").write_text("x")
    with pytest.raises(DataError, match="page: cannot be written"):
        write_page(found, "runs", tmp_path / "page")
