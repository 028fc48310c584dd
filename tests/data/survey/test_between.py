from pathlib import Path

from dist_rec.data.survey.between import between, repeated
from dist_rec.data.survey.facts import facts_of
from dist_rec.data.writer import write_split
from tests.data.requests import make_rows, make_schema, make_table

SCHEMA = make_schema()


def facts(folder: Path, rows: list[dict]):
    write_split(folder, make_table(rows), SCHEMA)
    return facts_of(folder, SCHEMA)


def test_equal_splits_have_no_drift_and_share_everything(tmp_path: Path) -> None:
    rows = make_rows(30)
    train, other = facts(tmp_path / "train", rows), facts(tmp_path / "test", rows)
    found = between(train, other, "candidate.item")
    assert found.split == "test" and set(found.drift.values()) == {0.0}
    assert (found.known_groups, found.known_candidates, found.same, found.later) == (1.0, 1.0, 30, 30)


def test_what_differs_is_measured(tmp_path: Path) -> None:
    rows = make_rows(40)
    train = facts(tmp_path / "train", [{**row, "candidate.item": [3] * len(row["candidate.item"])} for row in rows])
    others = [{**row, "candidate.item": [8] * len(row["candidate.item"]), "time": 5_000} for row in make_rows(40, 1)]
    found = between(
        train, facts(tmp_path / "test", [{**row, "user": row["user"] + 20} for row in others]), "candidate.item"
    )
    assert found.drift["candidate.item"] == 1.0 and next(iter(found.drift)) in ("candidate.item", "age of history")
    assert (found.known_groups, found.known_candidates, found.same, found.later) == (0.5, 0.0, 0, 0)


def test_requests_that_are_there_twice(tmp_path: Path) -> None:
    rows = make_rows(10)
    assert repeated(facts(tmp_path / "train", [*rows, rows[4], rows[4]])) == 2
    assert repeated(facts(tmp_path / "other", rows)) == 0
