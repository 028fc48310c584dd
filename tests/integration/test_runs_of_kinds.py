"""Runs on a dataset with fields of every kind: readers, resumed runs, and checkpoints that know their fields."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dist_rec.common.strict import ConfigError
from dist_rec.config import ParallelConfig
from dist_rec.data.errors import DataError
from dist_rec.door import check_run
from dist_rec.training.evaluate import evaluate_checkpoint
from dist_rec.training.ranks import Ranks, start_ranks
from tests.data.kind_rows import write_kinds
from tests.training.runs import losses, make_config, run


@pytest.fixture
def alone() -> Iterator[Ranks]:
    with start_ranks(ParallelConfig()) as ranks:
        yield ranks


SIZES = {"train": 48, "valid": 8, "test": 16}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_kinds(tmp_path / "data", SIZES)


def test_readers_give_what_is_collated(data: Path, tmp_path: Path, alone: Ranks) -> None:
    """With workers, which map the attributes anew, and resumed in the middle."""
    config = make_config(data, tmp_path, run={"max_steps": 4}, checkpoint={"every_steps": 2})
    run(config, alone)
    run(config, alone, "resumed", resume=tmp_path / "run" / "checkpoints" / "step-2")
    assert losses(config, "resumed") == losses(config, "run")[2:]
    run(make_config(data, tmp_path, data={"workers": 1}, run={"max_steps": 4}), alone, "worker")
    assert losses(config, "worker") == losses(config, "run") and len(set(losses(config, "run"))) == 4
    plain = make_config(data, tmp_path, data={"dedup": False}, run={"max_steps": 4})
    run(plain, alone, "plain")
    assert losses(plain, "plain") == pytest.approx(losses(config, "run"), abs=1e-5)


def test_a_checkpoint_is_of_its_fields(data: Path, tmp_path: Path, alone: Ranks) -> None:
    config = make_config(data, tmp_path, run={"max_steps": 2})
    run(config, alone)
    last = tmp_path / "run" / "checkpoints" / "last"
    before = evaluate_checkpoint(config, last, "test", alone)
    path = data / "schema.yaml"
    whole = yaml.safe_load(path.read_text())

    def changed(place: list[Any], key: str, value: Any) -> None:
        tree = yaml.safe_load(yaml.safe_dump(whole))
        there = tree
        for step in place:
            there = there[step]
        there.pop(key) if value is None else there.update({key: value})
        path.write_text(yaml.safe_dump(tree, sort_keys=False))

    other = {"mean": 5.0, "std": 3.0, "bounds": [-1.0, 7.0], "missing": 0.0}
    for place in (["candidate", "numbers", "stay"], ["attributes", "item", "year", "number"]):
        changed(place, "fitted", other)
        assert evaluate_checkpoint(config, last, "test", alone) == before, "what was fitted then is the model's"
    changed(["candidate"], "numbers", dict(reversed(whole["candidate"]["numbers"].items())))
    assert evaluate_checkpoint(config, last, "test", alone) == before, "names, not places"
    changed(["request"], "numbers", dict(reversed(whole["request"]["numbers"].items())))
    assert evaluate_checkpoint(config, last, "test", alone) == before
    for place, key, value, said in (
        (["candidate", "numbers", "stay"], "scale", "log", "number candidate.stay: {'scale': 'linear'"),
        (["request"], "utc_offset", 2.0, "request.cyclic: 5.5 when it was saved, 2.0 now"),
        (["attributes", "item"], "title", None, "attribute item.title: a vector of 6 when it was saved, nothing"),
        (["attributes", "item", "genres"], "pool", "sum", "attribute item.genres: mean of genre when .* sum of genre"),
        (["attributes", "user"], "income", None, "number attributes.user.income: {.* nothing of that name now"),
    ):
        changed(place, key, value)
        with pytest.raises(ConfigError, match=said):
            evaluate_checkpoint(config, last, "test", alone)


def test_wrong_attributes_are_found_at_the_door(data: Path, tmp_path: Path) -> None:
    config = make_config(data, tmp_path)
    check_run(config)
    (data / "attributes" / "item" / "year.npy").unlink()
    with pytest.raises(DataError, match=r"year.npy: expected a file of float32 \(50\), got nothing there"):
        check_run(config)
