"""Where runs start, and what may differ from the run that saved the checkpoint."""

from pathlib import Path
from typing import Any

import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.training.ranks import Ranks
from dist_rec.training.run_log import RunLog
from dist_rec.training.start import check_drift, checkpoint_for
from tests.training.runs import make_config, quiet_console, run

EVERY = {"checkpoint": {"every_steps": 2}}


@pytest.fixture
def place(data: Path, tmp_path: Path, alone: Ranks) -> Path:
    run(make_config(data, tmp_path, **EVERY), alone)
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"optim": {"lr": 0.5}}, ["optim.lr"]),
        ({"run": {"epochs": 3, "max_steps": 9}}, ["run.epochs", "run.max_steps"]),
        ({"data": {"batch_size": 4}}, ["data.batch_size"]),
        ({"embedding": {"tables": {"item": {"sharding": ["row_wise"]}}}}, ["embedding.tables.item.sharding"]),
    ],
)
def test_a_difference_is_shown_and_allowed_by_name(
    data: Path, tmp_path: Path, place: Path, change: dict[str, Any], names: list[str]
) -> None:
    config = make_config(data, tmp_path, **change)
    with pytest.raises(ConfigError, match="the recipe differs from that of the run that saved it") as caught:
        check_drift(place / "checkpoints" / "step-2", config, [])
    for name in names:
        assert f"\n- {name}" in str(caught.value) and f"--allow {name}" in str(caught.value)
    patterns = [f"{name.split('.')[0]}.*" for name in names]
    check_drift(place / "checkpoints" / "step-2", config, patterns)
    assert "checkpoint." not in str(caught.value), "that is free"


def test_the_same_recipe_in_another_place_is_no_difference(data: Path, tmp_path: Path, place: Path) -> None:
    free = {"data": {"workers": 3, "eval_batch_size": 9}, "run": {"out": str(tmp_path / "other"), "log_every": 7}}
    check_drift(place / "checkpoints" / "step-2", make_config(data, tmp_path, **free), [])


def _chosen(config: Any, place: Path, ranks: Ranks, resume: Any) -> Path | None:
    with RunLog(place, is_main=True, console=quiet_console()) as log:
        return checkpoint_for(place, resume, config, ranks, log)


def test_auto_is_the_newest_whole_one_or_none(data: Path, tmp_path: Path, place: Path, alone: Ranks) -> None:
    config, folder = make_config(data, tmp_path), place / "checkpoints"
    assert _chosen(config, tmp_path / "new", alone, "auto") is None
    assert _chosen(config, place, alone, None) is None
    assert _chosen(config, place, alone, "auto") == folder / "step-6"
    tensors = folder / "step-6" / "__0_0.distcp"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"?")  # of the same size
    assert _chosen(config, place, alone, "auto") == folder / "step-4"
    trusting = make_config(data, tmp_path, checkpoint={"verify": False})
    assert _chosen(trusting, place, alone, "auto") == folder / "step-6"
    with pytest.raises(ConfigError, match=r"__0_0.distcp: damaged"):
        _chosen(config, place, alone, folder / "step-6")
