import pickle
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from dist_rec.common.strict import ConfigError
from dist_rec.data.inspect import inspect_dataset, render
from dist_rec.data.validate import DataError
from dist_rec.data.writer import staged, write_schema, write_split
from tests.data.kind_rows import flat, kind_rows, write_kinds
from tests.data.later import FEEDBACK, later_rows, later_schema
from tests.data.requests import make_dataset, make_rows, make_schema, make_table


def test_numbers_by_hand(tmp_path: Path) -> None:
    rows = make_rows(30)
    report = inspect_dataset(make_dataset(tmp_path / "small", 30))
    (split,) = report.splits
    lengths = [len(row["history.item"]) for row in rows]
    clicks = [click for row in rows for click in row["candidate.click"]]
    owners = ("history", "candidate")
    items = [item for owner in owners for row in rows for item in zip(row[f"{owner}.item"], row[f"{owner}.kind"])]
    searches = [query for row in rows for query in row["searches.query"]]
    assert (split.name, split.rows, split.candidates) == ("train", 30, len(clicks))
    assert split.lengths["history"]["p50"] == np.percentile(lengths, 50)
    assert split.lengths["history"]["max"] == max(lengths)
    assert split.label_rate["click"] == pytest.approx(np.mean(clicks))
    distinct = len(set(items)) + len(set(searches))
    assert split.duplicate_share == pytest.approx(1 - distinct / (len(items) + len(searches)))
    assert report.cardinality["history.item"] == (len({item for item, _ in items}), 50)
    assert report.cardinality["context.user"] == (30, 1000)
    assert 0 < split.bytes_per_batch < split.plain_bytes_per_batch


def test_rates_of_conditional_labels_are_over_those_defined(tmp_path: Path) -> None:
    rows = make_rows(30)
    folder = make_dataset(tmp_path / "small", 30)
    candidate = {"ids": ["item", "kind"], "labels": ["click", "buy"], "oracle": True, "given": {"buy": "click"}}
    write_schema(folder, make_schema(candidate=candidate))
    (split,) = inspect_dataset(folder).splits
    pairs = [pair for row in rows for pair in zip(row["candidate.click"], row["candidate.buy"])]
    assert split.label_rate["click"] == pytest.approx(np.mean([click for click, _ in pairs]))
    assert split.label_rate["buy"] == pytest.approx(np.mean([buy for click, buy in pairs if click]))


def test_feedback_counts_as_other_events_do(tmp_path: Path) -> None:
    """Its ids are looked up with theirs, so its events are among those that may be the same."""
    schema, rows = later_schema(FEEDBACK | {"most": 9, "window": None}), later_rows(30)
    write_schema(tmp_path, schema)
    write_split(tmp_path / "train", make_table(rows, schema), schema)
    report = inspect_dataset(tmp_path)
    (split,) = report.splits
    owners = ("history", "candidate", "feedback")
    items = [item for owner in owners for row in rows for item in zip(row[f"{owner}.item"], row[f"{owner}.kind"])]
    searches = [query for row in rows for query in row["searches.query"]]
    distinct = len(set(items)) + len(set(searches))
    assert split.duplicate_share == pytest.approx(1 - distinct / (len(items) + len(searches)))
    assert report.cardinality["history.item"] == (len({item for item, _ in items}), 50)


def test_render(tmp_path: Path) -> None:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(render(inspect_dataset(make_dataset(tmp_path / "small", 30))))
    text = captured.get()
    assert "small: splits" in text and "train" in text and "searches" in text and "history.item" in text


def test_no_splits(tmp_path: Path) -> None:
    write_schema(tmp_path, make_schema())
    with pytest.raises(DataError, match="expected at least one sub-folder with Parquet files, got none"):
        inspect_dataset(tmp_path)


def test_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        inspect_dataset(tmp_path / "nothing")


def test_sub_folders_of_a_split_are_parts_of_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_dataset(tmp_path, 20)
    for place in ("train/day=1", "train/_hidden", "valid/day=2"):
        write_split(tmp_path / place, make_table(make_rows(5)), make_schema())
    for hidden in (".cache", "_old"):
        write_split(tmp_path / hidden, make_table(make_rows(5)), make_schema())
    assert {split.name: split.rows for split in inspect_dataset(tmp_path).splits} == {"train": 25, "valid": 5}
    assert not caplog.records


def test_what_is_no_split_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_dataset(tmp_path, 20)
    (tmp_path / "test").mkdir()
    (tmp_path / "more.parquet").touch()
    assert [split.name for split in inspect_dataset(tmp_path).splits] == ["train"]
    assert caplog.messages == [
        f"{tmp_path / 'more.parquet'}: not read, a file outside of the folders of splits",
        f"{tmp_path / 'test'}: not read, a folder without Parquet files",
    ]


@pytest.mark.parametrize(
    "file", ["schema.yaml", "stats.json", ".dist_rec.json", "train/part-00000.parquet", "train/.dist_rec.json"]
)
def test_nothing_in_a_dataset_folder_is_run(tmp_path: Path, file: str) -> None:
    """Pickles that make a file when they are loaded."""
    make_dataset(tmp_path, 20)
    content = pickle.dumps(_Planted(tmp_path / "ran"))
    (tmp_path / file).write_bytes(content)
    if file in ("schema.yaml", "train/part-00000.parquet"):
        with pytest.raises((ConfigError, DataError), match=f"^{tmp_path / file}: expected ") as caught:
            inspect_dataset(tmp_path)
        assert "\n" not in str(caught.value)
    else:
        inspect_dataset(tmp_path)
    with pytest.raises((ConfigError, DataError)):
        write_schema(tmp_path, make_schema(name="other"))
        with staged(tmp_path):
            pass
    assert not (tmp_path / "ran").exists()
    pickle.loads(content)
    assert (tmp_path / "ran").exists()  # the payload is a real one


class _Planted:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def test_numbers_by_split(tmp_path: Path) -> None:
    report = inspect_dataset(write_kinds(tmp_path / "data", {"train": 20, "valid": 5}))
    for split, seed in zip(report.splits, (0, 1), strict=True):
        rows = kind_rows(split.rows, seed)
        for name, column in (("candidate.rank", "candidate.rank"), ("context.of_price", "of_price")):
            values = flat(rows, column)
            of = split.numbers[name]
            assert of.missing == pytest.approx(np.isnan(values).mean()), "of what is sent as a bucket, too"
            assert (of.low, of.high) == (np.nanmin(values), np.nanmax(values))
            assert of.mean == pytest.approx(np.nanmean(values, dtype=np.float64))
    assert "attributes.item.year" in report.splits[0].numbers
    assert report.cardinality["history.item.genres"][1] == 7 and report.cardinality["candidate.related"][1] == 50
    console = Console(width=200, record=True)
    console.print(render(report))
    text = console.export_text()
    assert "numbers" in text and "history.price" in text and "missing" in text


def test_a_number_that_is_missing_throughout(tmp_path: Path) -> None:
    schema = make_schema(request={"grouping_key": "user", "time": "time", "numbers": {"of": {}}})
    write_schema(tmp_path, schema)
    write_split(tmp_path / "train", make_table([row | {"of": None} for row in make_rows(4)], schema), schema)
    (split,) = inspect_dataset(tmp_path).splits
    assert split.numbers["context.of"].missing == 1.0 and np.isnan(split.numbers["context.of"].mean)


def test_attributes_are_no_split(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert [split.name for split in inspect_dataset(write_kinds(tmp_path / "data", {"train": 9})).splits] == ["train"]
    assert "attributes" not in caplog.text
