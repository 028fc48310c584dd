"""What is sampled: tests/data/build/test_assemble.py has what follows from it."""

from pathlib import Path

import pytest

from dist_rec.common.strict import check
from dist_rec.data.build.build import build_dataset
from dist_rec.data.build.config import BuildConfig
from tests.data.build.small import ANCHORS, START, config, write_csv

EVENTS = [{"user": 9, "item": item, "time": START - 1, "kind": "a", "order": 0} for item in (4, 5)]
LATER = [{"user": 9, "item": 6, "time": START + 25, "kind": "a", "order": 0}]


@pytest.mark.parametrize("sample", ["uniform", "popularity"])
def test_every_split_samples_what_there_was_until_its_end(tmp_path: Path, sample: str) -> None:
    shown = [{**anchor, "item": number} for number, anchor in enumerate(ANCHORS)]
    write_csv(tmp_path / "events.csv", EVENTS + LATER)
    write_csv(tmp_path / "shown.csv", shown)
    tree = config(requests={"labels": {"click": "click"}, "negatives": {"sample": sample, "count": 1}})
    report = build_dataset(check(BuildConfig, tree, "here"), tmp_path / "out", folder=tmp_path)
    assert report.sampling["items"] == {"train": 3, "valid": 4, "test": 6}
    assert ("probability" in report.sampling) == (sample == "popularity")
