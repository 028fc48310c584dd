"""A survey as tables for a terminal, and as a page: `inspect.html`, which holds its picture, and `inspect.png`."""

import base64
import html
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table

from dist_rec.data.errors import writing
from dist_rec.data.inspect import PERCENTILES, render
from dist_rec.data.survey.draw import draw
from dist_rec.data.survey.survey import Survey

HTML, PNG = "inspect.html", "inspect.png"
TableOf = tuple[str, Sequence[str], Sequence[Sequence[str]]]
SHOWN = 8  # features, and fields that have drifted
STYLE = (
    "body{font-family:sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{border-bottom:1px solid #ccc;padding:.25em .8em}"
    "td,th{text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}li{margin:.3em 0}"
)


def render_survey(survey: Survey) -> RenderableType:
    """The tables of `data.inspect`, then what is between the splits, features alone, and what to look at."""
    parts: list[RenderableType] = [render(survey.report)]
    for title, header, rows in _of_survey(survey):
        table = Table(*header[:1], title=title)
        for name in header[1:]:
            table.add_column(name, justify="right")
        for row in rows:
            table.add_row(*row)
        parts.append(table)
    look = ["To look at:", *(f"- {line}" for line in survey.look)] if survey.look else ["Nothing strange."]
    parts.append("\n".join(look))
    return Group(*parts)


def write_page(survey: Survey, folder: Path) -> Path:
    """Writes both files into a folder, and returns the path of the page. Raises DataError if they cannot be written."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        draw(survey).savefig(folder / PNG, dpi=110)
        picture = base64.b64encode((folder / PNG).read_bytes()).decode()
        (folder / HTML).write_text("\n".join(_lines(survey, picture)) + "\n", encoding="utf-8")
    return folder / HTML


def _lines(survey: Survey, picture: str) -> Iterable[str]:
    name = html.escape(survey.report.name)
    yield f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{name}</title><style>{STYLE}</style>"
    yield f"<h1>{name}</h1><h2>To look at</h2>"
    if survey.look:
        yield "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in survey.look) + "</ul>"
    else:
        yield "<p>Nothing strange.</p>"
    yield f"<img alt='lengths, ages, times, label rates, popularity' src='data:image/png;base64,{picture}'>"
    for title, header, rows in _tables(survey):
        yield (
            f"<h2>{html.escape(title)}</h2><table><tr>"
            + "".join(f"<th>{html.escape(h)}</th>" for h in header)
            + "</tr>"
        )
        for row in rows:
            yield _row(row, "td")
        yield "</table>"


def _tables(survey: Survey) -> list[TableOf]:
    """Title, header and rows of each."""
    report = survey.report
    percentiles = ", ".join(f"p{p}" for p in PERCENTILES)
    splits = [
        (
            of.name,
            f"{of.rows:,}",
            f"{of.candidates:,}",
            ", ".join(f"{task} {rate:.3f}" for task, rate in of.label_rate.items()),
            "; ".join(f"{name} {_percentiles(found)}" for name, found in of.lengths.items()),
            f"{of.duplicate_share:.1%}",
        )
        for of in report.splits
    ]
    numbers = [
        (name, split.name, f"{of.missing:.1%}", *(f"{value:g}" for value in (of.low, of.mean, of.high)))
        for split in report.splits
        for name, of in split.numbers.items()
    ]
    seen = [(name, f"{seen:,}", f"{size:,}") for name, (seen, size) in report.cardinality.items()]
    return [
        ("Splits", ("split", "requests", "candidates", "label rate", f"length {percentiles}", "duplicates"), splits),
        *_of_survey(survey),
        *([("Numbers", ("number", "split", "missing", "min", "mean", "max"), numbers)] if numbers else []),
        ("Distinct ids", ("field", "seen", "table"), seen),
    ]


def _of_survey(survey: Survey) -> list[TableOf]:
    """Those that `data.inspect` does not have."""
    between = [
        (
            of.split,
            f"{of.known_groups:.1%}",
            f"{of.known_candidates:.1%}",
            f"{of.same:,}",
            "-" if of.later is None else f"{of.later:,}",
            ", ".join(f"{name} {distance:.2f}" for name, distance in list(of.drift.items())[:3]),
        )
        for of in survey.between
    ]
    alone = [(of.feature, of.task, "-" if math.isnan(of.auc) else f"{of.auc:.3f}") for of in survey.alone[:SHOWN]]
    first = survey.facts[0].name
    beside = ("split", "users known", "candidates known", "same requests", f"{first} not before it", "drift, the most")
    return [
        *([(f"Beside {first}", beside, between)] if between else []),
        (f"Features alone, {first}", ("feature", "task", "AUC"), alone),
    ]


def _percentiles(found: dict[str, float]) -> str:
    return " / ".join(f"{found[f'p{p}']:,.0f}" for p in PERCENTILES)


def _row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
