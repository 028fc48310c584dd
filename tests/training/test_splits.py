"""The batches of a split: how a recipe becomes a reader, and how many steps a run has."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dist_rec.common.strict import ConfigError
from dist_rec.data import shared_memory
from dist_rec.data.files import warn_once
from dist_rec.data.schema_file import load_schema
from dist_rec.training import splits
from dist_rec.training.ranks import Ranks
from dist_rec.training.splits import (
    dataset_schema,
    evaluation_loader,
    hashes_on_device,
    open_split,
    reader_workers,
    training_loader,
    training_steps,
    with_reader_workers,
)
from tests.training.runs import make_config


def _rank(rank: int) -> Any:
    return SimpleNamespace(rank=rank, world_size=8, is_main=rank == 0, device=torch.device("cpu"))


def test_training_shuffles_and_repeats_and_evaluation_does_not(data: Path, tmp_path: Path, alone: Ranks) -> None:
    config, schema = make_config(data, tmp_path, run={"epochs": 3, "seed": 5}), load_schema(data)
    train = open_split(config, schema, alone, ["train"], train=True)
    assert (train.batch_size, train.epochs, train.shuffle_window, train.seed) == (8, 3, 8192, 5)
    test = open_split(config, schema, alone, ["valid", "test"], train=False)
    assert (test.batch_size, test.epochs, test.shuffle_window, test.num_rows) == (5, 1, 0, 12 + 15)


def test_only_training_has_batches_by_events(data: Path, tmp_path: Path, alone: Ranks) -> None:
    config = make_config(data, tmp_path, data={"batch_size": None, "batch_events": 90})
    train, test = (open_split(config, load_schema(data), alone, ["test"], train=train) for train in (True, False))
    assert (train.batch_size, train.batch_events) == (None, 90) and (test.batch_size, test.batch_events) == (5, None)


@pytest.mark.parametrize(
    ("device", "cores", "ranks_here", "workers"),
    [("cpu", 16, 2, 1), ("cuda", 16, 1, 8), ("cuda", 16, 4, 3), ("cuda", 2, 2, 1)],
)
def test_reader_processes_by_the_cores_of_a_rank(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: str, cores: int, ranks_here: int, workers: int
) -> None:
    monkeypatch.setattr(splits.os, "sched_getaffinity", lambda _: range(cores))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks_here))
    ranks: Any = SimpleNamespace(device=torch.device(device), world_size=64)
    config = make_config(tmp_path, tmp_path, data={"workers": None})
    assert reader_workers(with_reader_workers(config, ranks)) == workers
    given = make_config(tmp_path, tmp_path, data={"workers": 0})
    assert with_reader_workers(given, ranks) is given and reader_workers(given) == 0


@pytest.mark.parametrize(
    ("workers", "rank", "needed"), [(1, 0, "1 reader processes x 4 ranks"), (0, 0, ""), (1, 1, "")]
)
def test_too_little_shared_memory_is_said_at_the_start(
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    workers: int,
    rank: int,
    needed: str,
) -> None:
    monkeypatch.setattr(shared_memory, "shared_memory_room", lambda: 0.0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    warn_once.cache_clear()
    config, ranks = make_config(data, tmp_path, data={"workers": workers}), _rank(rank)
    reader = open_split(config, load_schema(data), ranks, ["train"], train=True)
    for _ in range(2):
        training_loader(config, reader, ranks)
    assert [needed in text for text in caplog.messages if "shared memory" in text] == [True] * bool(needed)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, 6),
        ({"run": {"epochs": 2}}, 12),
        ({"run": {"max_steps": 4}}, 4),
        ({"optim": {"accumulation_steps": 4}}, 4),
        ({"optim": {"accumulation_steps": 4}, "run": {"epochs": 2}}, 12),
    ],
)
def test_a_run_has_whole_updates(data: Path, tmp_path: Path, alone: Ranks, changes: dict[str, Any], steps: int) -> None:
    config = make_config(data, tmp_path, **changes)
    reader = open_split(config, load_schema(data), alone, ["train"], train=True)
    assert training_steps(config, reader) == steps


def test_a_run_without_one_update_is_refused(data: Path, tmp_path: Path, alone: Ranks) -> None:
    config = make_config(data, tmp_path, optim={"accumulation_steps": 7})
    with pytest.raises(ConfigError, match="accumulation_steps=7: the run has only 6 batches"):
        training_steps(config, open_split(config, load_schema(data), alone, ["train"], train=True))


@pytest.mark.parametrize(
    ("device", "hash_ngrams", "kernel", "there"),
    [
        ("cuda", "auto", None, True),
        ("cuda", "auto", "fused", True),
        ("cuda", "auto", "fused_uvm_caching", False),
        ("cuda", "host", None, False),
        ("cpu", "auto", None, False),
        ("cpu", "device", None, True),
    ],
)
def test_where_n_grams_are_hashed(
    data: Path, tmp_path: Path, device: str, hash_ngrams: str, kernel: str | None, there: bool
) -> None:
    table = {"kernel": [kernel]} if kernel else {}
    config = make_config(
        data,
        tmp_path,
        data={"ngram": {"history.item": {"rows": 9, "heads": 1}}, "hash_ngrams": hash_ngrams},
        embedding={"tables": {"history_item_ngram": table}},
    )
    assert hashes_on_device(config, dataset_schema(config), torch.device(device)) == there


def test_loaders_give_every_request(data: Path, tmp_path: Path, alone: Ranks) -> None:
    config, schema = make_config(data, tmp_path), load_schema(data)
    loader = training_loader(config, open_split(config, schema, alone, ["train"], train=True), alone)
    assert sum(batch.num_requests for batch in loader) == 48
    assert sum(batch.num_requests for batch in evaluation_loader(config, schema, alone, ["test"])) == 15
