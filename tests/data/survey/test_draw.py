from pathlib import Path

from dist_rec.data.schema import Schema
from dist_rec.data.survey.draw import draw
from dist_rec.data.survey.survey import survey
from dist_rec.data.writer import write_schema, write_split
from tests.data.requests import make_rows, make_table
from tests.data.survey.small import dataset


def test_a_panel_for_each(tmp_path: Path) -> None:
    figure = draw(survey(dataset(tmp_path / "x", train=make_rows(60), test=make_rows(30, 1))))
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 6 and "label rate over time" in titles
    lengths = figure.axes[0]
    assert [line.get_label() for line in lengths.get_lines()] == [
        "train, history",
        "train, searches",
        "test, history",
        "test, searches",
    ]


def test_without_times_it_says_so(tmp_path: Path) -> None:
    tree = {"name": "x", "tables": {"item": 50}, "request": {"grouping_key": "user"}}
    tree |= {"sequences": [{"name": "history", "ids": ["item"]}], "candidate": {"ids": ["item"], "labels": ["click"]}}
    schema = Schema.model_validate(tree)
    write_schema(tmp_path / "x", schema)
    rows = [
        {name: row[name] for name in ("user", "history.item", "candidate.item", "candidate.click")}
        for row in make_rows(40)
    ]
    write_split(tmp_path / "x" / "train", make_table(rows, schema), schema)
    figure = draw(survey(tmp_path / "x"))
    assert [text.get_text() for axes in figure.axes for text in axes.texts] == [
        "no sequence has times",
        "requests have no times",
        "requests have no times",
    ]
