"""`dist_rec.train`: what it puts into the recipe. It trains in tests/integration/test_extending.py."""

import subprocess
import sys
from pathlib import Path

import pytest

import dist_rec
from dist_rec.api import with_parts
from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.embedding.optimizers import Sgd
from dist_rec.models.baselines.model import Din
from dist_rec.registry import Part, part
from dist_rec.training.optimizers import AdamW

CONFIG = Config.model_validate({"data": {"path": "somewhere"}, "model": {"longer": {"k": 3}}})


def test_parts_take_the_place_of_those_in_the_recipe() -> None:
    config = with_parts(
        CONFIG,
        {
            "model": part(Din, {"hidden": 5}),
            "optim.optimizer": AdamW,
            "embedding.optimizer": part(Sgd),
            "run.metrics": ["a:B", part(AdamW)][1:],
            "data.reader": None,
        },
    )
    assert config.model.as_part() == Part(name="dist_rec.models.baselines.model:Din", options={"hidden": 5})
    assert config.optim.optimizer.name == "dist_rec.training.optimizers:AdamW"
    assert config.embedding.optimizer.name == "dist_rec.embedding.optimizers:Sgd"
    assert [metric.name for metric in config.run.metrics] == ["dist_rec.training.optimizers:AdamW"]
    assert config.data == CONFIG.data and with_parts(CONFIG, {"model": None}) == CONFIG


def test_what_is_wrong_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"somewhere/schema.yaml: no such file"):
        dist_rec.train(CONFIG)
    with pytest.raises(ConfigError, match=r"nowhere.yaml: no such file"):
        dist_rec.train(tmp_path / "nowhere.yaml")


def test_names_of_the_package_come_when_asked_for() -> None:
    assert set(dist_rec.__all__) == {"Config", "Predictor", "load_config", "load_model", "part", "train"}
    assert all(getattr(dist_rec, name) is not None for name in dist_rec.__all__)
    with pytest.raises(AttributeError, match="module 'dist_rec' has no attribute 'trian'"):
        _ = dist_rec.trian  # pyright: ignore[reportAttributeAccessIssue]
    code = "import sys, dist_rec; dist_rec.Config; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
