"""A survey as tables for a terminal, and as a page: `inspect.html`, which holds its picture, and `inspect.png`."""

import math
from collections.abc import Iterable
from pathlib import Path

from rich.console import Group, RenderableType

from dist_rec.data.errors import writing
from dist_rec.data.inspect import PERCENTILES, render
from dist_rec.data.page import TableOf, for_terminal, page_list, page_picture, page_start, page_table
from dist_rec.data.survey.draw import draw
from dist_rec.data.survey.survey import Survey

HTML, PNG = "inspect.html", "inspect.png"
SHOWN = 8  # features, and fields that have drifted


def render_survey(survey: Survey) -> RenderableType:
    """The tables of `data.inspect`, then what is between the splits, features alone, and what to look at."""
    parts: list[RenderableType] = [render(survey.report)]
    parts += map(for_terminal, _of_survey(survey))
    look = ["To look at:", *(f"- {line}" for line in survey.look)] if survey.look else ["Nothing strange."]
    parts.append("\n".join(look))
    return Group(*parts)


def write_page(survey: Survey, folder: Path) -> Path:
    """Writes both files into a folder, and returns the path of the page. Raises DataError if they cannot be written."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        draw(survey).savefig(folder / PNG, dpi=110)
        (folder / HTML).write_text("\n".join(_lines(survey, folder / PNG)) + "\n", encoding="utf-8")
    return folder / HTML


def _lines(survey: Survey, picture: Path) -> Iterable[str]:
    yield f"{page_start(survey.report.name)}<h2>To look at</h2>"
    yield page_list(survey.look) if survey.look else "<p>Nothing strange.</p>"
    yield page_picture(picture, "lengths, ages, times, label rates, popularity")
    for table in _tables(survey):
        yield from page_table(table)


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
