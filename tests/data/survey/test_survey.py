from pathlib import Path

import pytest

from dist_rec.data.errors import DataError
from dist_rec.data.survey.survey import survey
from dist_rec.data.writer import write_schema
from tests.data.requests import make_rows
from tests.data.survey.small import SCHEMA, dataset


def test_the_first_split_is_train_and_others_are_beside_it(tmp_path: Path) -> None:
    later = [{**row, "time": 2_000} for row in make_rows(200, 1)]
    found = survey(dataset(tmp_path / "x", test=later, train=make_rows(200)))
    assert [of.name for of in found.facts] == ["train", "test"] and [of.split for of in found.between] == ["test"]
    assert found.between[0].later == 0 and found.report.name == "small"
    assert not [line for line in found.look if "drifted" not in line]


def test_what_is_strange_is_said(tmp_path: Path) -> None:
    rows = make_rows(300)
    for row in rows:
        row["candidate.kind"] = row["candidate.click"]
        if row["history.time"]:
            row["history.time"][-1] = row["time"]
    found = survey(
        dataset(
            tmp_path / "x", train=[*rows, rows[7]], test=[{**row, "time": 900_000} for row in rows[:5]] + rows[9:12]
        )
    )
    text = "\n".join(found.look)
    assert "candidate.kind alone tells click with an AUC of 1.000: expected nothing that is known only after" in text
    assert "train: 1 requests are equal to another one" in text and "test: 3 requests are in train too" in text
    assert "requests have an event of their own second" in text
    assert "301 requests of train are not before the first one of test" in text


def test_a_dataset_without_splits(tmp_path: Path) -> None:
    write_schema(tmp_path / "x", SCHEMA)
    with pytest.raises(DataError, match="expected at least one sub-folder with Parquet files"):
        survey(tmp_path / "x")
