"""Tables of text, for a terminal and for a page of HTML that holds its picture."""

import base64
import html
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

TableOf = tuple[str, Sequence[str], Sequence[Sequence[str]]]
STYLE = (
    "body{font-family:sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{border-bottom:1px solid #ccc;padding:.25em .8em}"
    "td,th{text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}li{margin:.3em 0}"
)


def for_terminal(table: TableOf) -> Table:
    """The first column on the left, the others on the right. What is too wide is broken and not cut off."""
    title, header, rows = table
    found = Table(title=escape(title))
    for number, name in enumerate(header):
        found.add_column(escape(name), justify="right" if number else "left", overflow="fold")
    for row in rows:
        found.add_row(*map(escape, row))
    return found


def page_start(title: str) -> str:
    name = html.escape(title)
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{name}</title><style>{STYLE}</style>"
        f"<h1>{name}</h1>"
    )


def page_list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def page_picture(path: Path, told: str) -> str:
    """A PNG file, held by the page itself; `told` in words."""
    picture = base64.b64encode(path.read_bytes()).decode()
    return f"<img alt='{html.escape(told)}' src='data:image/png;base64,{picture}'>"


def page_table(table: TableOf) -> Iterator[str]:
    """Lines of one table below its title."""
    title, header, rows = table
    yield f"<h2>{html.escape(title)}</h2><table>{_row(header, 'th')}"
    for row in rows:
        yield _row(row, "td")
    yield "</table>"


def _row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
