"""Weights that are not trained do not change by a bit, whatever the optimizers are."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.training.freeze import check_freeze
from dist_rec.training.ranks import Ranks
from dist_rec.training.splits import dataset_schema
from dist_rec.training.warm_start import unloaded_model
from tests.helpers.ranks import run_ranks
from tests.training.runs import make_config, run, saved_weights, these_ranks

FROZEN = ["model.ranker.body.encoders.history.*", "tables.item", "tables.kind"]
DECAY: dict[str, Any] = {"weight_decay": 0.1}


def _config(data: Path, out: Path, freeze: list[str], **changes: Any) -> Config:
    """Of a run that starts from the weights of the last step of another one."""
    tables = {"kind": {"sharding": ["data_parallel"]}, "item": {"sharding": ["row_wise"]}}
    embedding = {"tables": tables, **changes.pop("embedding", DECAY)}
    init = {"checkpoint": str(out / "run" / "checkpoints" / "last"), "freeze": freeze}
    return make_config(
        data, out, embedding=embedding, init=init if freeze else None, data={"batch_size": 4, "valid": []}, **changes
    )


def _train(config: Config, folder: str) -> None:
    run(config, these_ranks(), folder)


def _check(config: Config) -> None:
    before, after = saved_weights(config), saved_weights(config, "frozen")
    still = {name for name in before if torch.equal(before[name], after[name])}
    expected = {name for name in before if name.split("embeddings.")[-1] == "item.weight" or ".kind." in name}
    expected |= {name for name in before if name.startswith("ranker.body.encoders.history.")}
    assert expected and len(expected) < len(before) / 2 + 2
    assert expected <= still, sorted(expected - still)
    assert {"user.weight", "query.weight"}.isdisjoint(name.split("embeddings.")[-1] for name in still)
    assert any("ranker.head" in name for name in before.keys() - still)


@pytest.mark.parametrize("update", [pytest.param("sync", marks=pytest.mark.slow), "delayed"])
def test_frozen_weights_do_not_change_on_two_ranks(data: Path, tmp_path: Path, update: str) -> None:
    optim = {"dense_update": update}
    run_ranks(_train, 2, _config(data, tmp_path, [], optim=optim), "run")
    config = _config(data, tmp_path, FROZEN, optim=optim)
    run_ranks(_train, 2, config, "frozen")
    _check(config)


@pytest.mark.parametrize("more", [{"optim": {"optimizer": "muon"}}, {"embedding": {"optimizer": "sgd"}}])
def test_frozen_weights_do_not_change_on_one(data: Path, tmp_path: Path, alone: Ranks, more: dict[str, Any]) -> None:
    run(_config(data, tmp_path, [], **dict(more)), alone)
    config = _config(data, tmp_path, FROZEN, **dict(more))
    run(config, alone, "frozen")
    _check(config)


def test_all_tables_frozen_and_no_matrix_for_muon(data: Path, tmp_path: Path, alone: Ranks) -> None:
    run(_config(data, tmp_path, []), alone)
    names = unloaded_model(dataset_schema(_config(data, tmp_path, [])), _config(data, tmp_path, [])).named_parameters()
    matrices = [f"model.{name}" for name, weight in names if weight.ndim == 2 and name.startswith("ranker.")]
    config = _config(data, tmp_path, ["tables.*", *matrices], optim={"optimizer": "muon"})
    run(config, alone, "frozen")
    before, after = saved_weights(config), saved_weights(config, "frozen")
    for name in before:
        assert torch.equal(before[name], after[name]) == (name.startswith("embedding.") or before[name].ndim == 2), name


def test_a_resumed_run_keeps_them(data: Path, tmp_path: Path, alone: Ranks) -> None:
    run(_config(data, tmp_path, []), alone)
    config = _config(data, tmp_path, FROZEN, checkpoint={"every_steps": 4})
    run(config, alone, "frozen")
    run(config, alone, "resumed", tmp_path / "frozen" / "checkpoints" / "step-4")
    went_on, resumed = saved_weights(config, "frozen"), saved_weights(config, "resumed")
    assert all(torch.equal(value, resumed[name]) for name, value in went_on.items())


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (
            ["tables.item", "tables.itm"],
            r"no weight that is trained fits tables.itm; expected names such as tables.user",
        ),
        (["model.*", "tables.kind"], r"dense weights fit model.\*, tables.kind; expected at least one that is trained"),
        (["tables.user"], "expected tables whose ids keep their rows, got tables.user with dynamic ids"),
    ],
)
def test_what_cannot_be_frozen(data: Path, tmp_path: Path, patterns: list[str], words: str) -> None:
    config = make_config(data, tmp_path, embedding={"tables": {"user": {"ids": "dynamic"}}})
    schema = dataset_schema(config)
    with pytest.raises(ConfigError, match=words):
        check_freeze(patterns, unloaded_model(schema, config), schema)
