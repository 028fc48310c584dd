"""Tables of text: what a user named shows as it is, on a terminal and in a page."""

import io
from pathlib import Path

from rich.console import Console

from dist_rec.data.page import for_terminal, page_list, page_picture, page_start, page_table

TABLE = ("of [red]runs", ("run", "a & b"), [("<i>x</i>", "[1, 2]"), ("y", "3")])


def test_brackets_are_text_on_a_terminal() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(for_terminal(TABLE))
    assert "of [red]runs" in out.getvalue() and "[1, 2]" in out.getvalue()


def test_a_page_holds_text_and_no_markup_of_others() -> None:
    lines = list(page_table(TABLE))
    assert lines[0] == "<h2>of [red]runs</h2><table><tr><th>run</th><th>a &amp; b</th></tr>"
    assert lines[1:] == [
        "<tr><td>&lt;i&gt;x&lt;/i&gt;</td><td>[1, 2]</td></tr>",
        "<tr><td>y</td><td>3</td></tr>",
        "</table>",
    ]
    assert page_start("<b>").endswith("<h1>&lt;b&gt;</h1>") and page_list(["<b>"]) == "<ul><li>&lt;b&gt;</li></ul>"


def test_a_page_holds_its_picture(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"abc")
    assert page_picture(tmp_path / "x.png", "it's") == "<img alt='it&#x27;s' src='data:image/png;base64,YWJj'>"
