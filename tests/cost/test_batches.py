"""The largest batch and the mean one, of data and of a description."""

from pathlib import Path

import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.cost import batches
from dist_rec.cost.batches import SomeRowGroups, batches_of
from dist_rec.data.row_reader import PARQUET
from dist_rec.training.splits import dataset_schema
from tests.cost.clusters import SCHEMA, config_of
from tests.training.runs import make_config, write_dataset


def test_of_data(tmp_path: Path) -> None:
    config = make_config(write_dataset(tmp_path / "data"), tmp_path)
    schema = dataset_schema(config)
    found = batches_of(config, schema, (), 2)
    assert found.largest.num_events >= found.mean.num_events and found.mean.num_requests == 8
    assert found.requests.events == found.mean.num_events and found.requests.spread > 0
    assert found.source.startswith("6 batches of the training split, which has 48 requests and ")


def test_half_the_length_halves_the_largest(tmp_path: Path) -> None:
    config = make_config(write_dataset(tmp_path / "data"), tmp_path)
    cut = make_config(tmp_path / "data", tmp_path, data={"max_length": 2})
    schema = dataset_schema(config)
    assert batches_of(cut, schema, (), 1).largest.num_events < batches_of(config, schema, (), 1).largest.num_events


def test_the_row_groups_with_the_longest_requests_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "HEAVIEST", 2)
    monkeypatch.setattr(batches, "SPREAD_OUT", 1)
    folder = write_dataset(tmp_path / "data", {"train": [4] * 9, "valid": [4], "test": [4]}) / "train"
    every = PARQUET.row_groups(folder, SCHEMA)
    chosen = SomeRowGroups(PARQUET).row_groups(folder, SCHEMA)
    heaviest = sorted(every, key=lambda of: -(of.events or 0))[:2]
    assert {of.index for of in heaviest} < {of.index for of in chosen} and len(chosen) < len(every)
    assert [of.index for of in chosen] == sorted(of.index for of in chosen)


def test_of_a_description_the_largest_is_that_of_all_ranks() -> None:
    config = config_of(data={"batch_size": 64})
    said = ["length=50", "spread=0.5", "candidates=3"]
    few, many = (batches_of(config, SCHEMA, said, ranks) for ranks in (1, 1000))
    assert few.mean.num_events == many.mean.num_events < few.largest.num_events < many.largest.num_events
    assert many.mean.num_candidates == many.largest.num_candidates == 64 * 3
    even = batches_of(config, SCHEMA, ["length=50"], 8)
    assert even.largest.num_events == even.mean.num_events


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lenth: unknown key"):
        batches_of(config_of(), SCHEMA, ["lenth=3"], 1)
    with pytest.raises(ConfigError, match="expected a training split, or --requests"):
        batches_of(make_config(tmp_path, tmp_path), SCHEMA, (), 1)
