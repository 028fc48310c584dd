"""Weights of a checkpoint without ranks are those that ranks load."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.export.read_checkpoint import Weights
from dist_rec.predict.predictor import load_model
from dist_rec.serve.load import read_tensors


def test_dense_weights_and_tables_are_those_of_the_model(config: Config, last: Path, tmp_path: Path) -> None:
    weights = Weights.of(last)
    dense = weights.dense()
    with load_model(last, config) as model:
        ranker = model._scorer._model.ranker.state_dict()
    assert dense.keys() == ranker.keys()
    assert all(torch.equal(dense[name], of.cpu()) for name, of in ranker.items())
    assert weights.tables.keys() == {"item", "kind", "user", "query"}
    of = weights.write_table("item", "fp32", tmp_path)
    assert (of.rows, of.dim) == tuple(read_tensors(tmp_path / "tables/item.safetensors")["weight"].shape)


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a checkpoint"):
        Weights.of(tmp_path)


def test_damage_is_named(last: Path, tmp_path: Path) -> None:
    shutil.copytree(last, tmp_path / "copy")
    weights = Weights.of(tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("*.distcp"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigError, match="copy: damaged: "):
        weights.dense()


def test_a_width_that_cannot_be_stored_is_named(last: Path, tmp_path: Path) -> None:
    weights = Weights.of(last)
    odd: Any = {weights.tables["item"]: SimpleNamespace(size=(5, 3))}
    with pytest.raises(ConfigError, match=r"--tables int4: table item: .*even width for int4, got 3"):
        Weights(last, odd).write_table("item", "int4", tmp_path)
