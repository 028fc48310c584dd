from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from dist_rec.data.errors import DataError
from dist_rec.data.survey.page import render_survey, write_page
from dist_rec.data.survey.survey import survey
from tests.data.requests import make_rows
from tests.data.survey.small import dataset

VOID = {"meta", "img"}


class Tags(HTMLParser):
    """Checks that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID | {"html"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_holds_tables_and_its_picture(tmp_path: Path) -> None:
    later = [{**row, "time": 2_000} for row in make_rows(40, 1)]
    found = survey(dataset(tmp_path / "x", train=make_rows(60), test=later))
    page = write_page(found, tmp_path / "page")
    assert (tmp_path / "page" / "inspect.png").read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    parser = Tags()
    parser.feed(text)
    assert not parser.open and "data:image/png;base64,iVBOR" in text and "http" not in text, "it needs no other file"
    for told in ("small", "Splits", "Beside train", "Features alone, train", "history.item", "To look at"):
        assert told in " ".join(parser.text)


def test_the_terminal_gets_the_same(tmp_path: Path) -> None:
    console = Console(width=160, record=True)
    console.print(render_survey(survey(dataset(tmp_path / "x", train=make_rows(60)))))
    text = console.export_text()
    assert (
        "small: splits" in text and "Features alone, train" in text and ("Nothing strange" in text or "To look" in text)
    )


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "page").write_text("x")
    with pytest.raises(DataError, match="page: cannot be written"):
        write_page(survey(dataset(tmp_path / "x", train=make_rows(60))), tmp_path / "page")
