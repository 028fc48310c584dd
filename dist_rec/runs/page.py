"""Runs on a terminal, and as a page: `runs.html`, which holds its picture, and `runs.png`."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement

from dist_rec.data.errors import writing
from dist_rec.data.page import TableOf, for_terminal, page_list, page_picture, page_start, page_table
from dist_rec.runs.draw import draw
from dist_rec.runs.report import Report

HTML, PNG = "runs.html", "runs.png"
PIPE_WIDTH = 160  # characters, where there is no terminal to fit into
LEAST = ("commit", "started", "samples")  # columns that a narrow terminal does without, in this order


def show(found: Report, console: Console) -> None:
    """The tables, what is said of them, and what could not be read."""
    if not console.is_terminal:
        console.width = max(console.width, PIPE_WIDTH)
    first, hidden = _narrowed(found.tables[0], console)
    for table in (first, *found.tables[1:]):
        console.print(for_terminal(table))
    if hidden:
        console.print(f"Not shown in {console.width} characters: {', '.join(hidden)}.", highlight=False)
    for line in [*found.notes, *(f"warning: {line}" for line in found.warnings)]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _narrowed(table: TableOf, console: Console) -> tuple[TableOf, list[str]]:
    """The table without the columns that it is too wide for, and their names."""
    title, header, rows = table
    hidden: list[str] = []
    for name in LEAST:
        wide = console.options.update(max_width=10_000)
        if Measurement.get(console, wide, for_terminal((title, header, rows))).maximum <= console.width:
            break
        at = header.index(name)
        header, rows = _without(header, at), [_without(row, at) for row in rows]
        hidden.append(name)
    return (title, header, rows), hidden


def _without(cells: Sequence[str], at: int) -> list[str]:
    return [*cells[:at], *cells[at + 1 :]]


def write_page(found: Report, name: str, folder: Path) -> Path:
    """Writes both files into a folder, and returns the path of the page. Raises DataError if they cannot be written."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        draw(found.groups, found.metrics).savefig(folder / PNG, dpi=110)
        (folder / HTML).write_text("\n".join(_lines(found, name, folder / PNG)) + "\n", encoding="utf-8")
    return folder / HTML


def _lines(found: Report, name: str, picture: Path) -> Iterator[str]:
    yield page_start(name)
    first, *others = found.tables
    yield from page_table(first)
    if found.notes:
        yield page_list(found.notes)
    yield page_picture(picture, "training loss and validation metrics over steps and samples")
    for table in others:
        yield from page_table(table)
    if found.warnings:
        yield "<h2>What could not be read</h2>"
        yield page_list(found.warnings)
