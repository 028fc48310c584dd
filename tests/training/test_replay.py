"""A step whose loss is not finite: where it came from is written down, and found again."""

import json
import math
import shutil
from pathlib import Path

import pytest

from dist_rec.common.errors import RunError
from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.training.ranks import Ranks
from dist_rec.training.replay import checkpoint_before, replay
from tests.training.runs import make_config, rows, run


def _config(data: Path, out: Path, **changes: object) -> Config:
    """Of weights that are infinite after a few steps."""
    return make_config(
        data,
        out,
        checkpoint={"every_steps": 1, "at_end": False},
        embedding={"lr": 1e30},
        data={"valid": [], "test": []},
        run={"log_every": 2, **changes},
    )


@pytest.fixture
def broken(data: Path, tmp_path: Path, alone: Ranks) -> Path:
    config = _config(data, tmp_path)
    run(config, alone)
    (tmp_path / "run" / "recipe.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    return tmp_path / "run"


def _first(folder: Path) -> int:
    return min(int(path.name.split("-")[1]) for path in (folder / "nonfinite").iterdir())


def test_rows_of_such_a_step_are_written_down(broken: Path) -> None:
    first = _first(broken)
    found = json.loads((broken / "nonfinite" / f"step-{first}-rank-0.json").read_text())
    assert found["step"] == first and found["rank"] == 0
    places = [(of["row_group"], row) for of in found["rows"] for row in of["rows"]]
    assert len(set(places)) == 8 and all(Path(of["file"]).is_file() for of in found["rows"])


def test_the_step_is_made_again(broken: Path, alone: Ranks) -> None:
    first = _first(broken)
    told = list(replay(broken, first, alone))
    assert told[0].startswith(f"from {broken}/checkpoints/step-{first - 1}, after step {first - 1}: 0 steps")
    loss = next(line for line in told if line.startswith(f"step {first}: loss"))
    assert not math.isfinite(float(loss.split()[3])) and "in 8 requests" in loss
    assert any("requests are not finite; the first one: " in line and ", row " in line for line in told)


def test_steps_between_are_trained_again(data: Path, tmp_path: Path, alone: Ranks) -> None:
    config = make_config(data, tmp_path, checkpoint={"every_steps": 2})
    run(config, alone)
    (tmp_path / "run" / "recipe.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    told = list(replay(tmp_path / "run", 4, alone))
    assert "after step 2: 1 steps trained again on one rank" in told[0]
    loss = float(next(line for line in told if line.startswith("step 4: loss")).split()[3])
    assert loss == pytest.approx(rows(config)[3]["loss"], rel=1e-5)
    assert "weights before step 4: all finite" in told


def test_a_run_may_stop_there(data: Path, tmp_path: Path, alone: Ranks) -> None:
    with pytest.raises(
        RunError, match=r"the loss is not finite .* step \d on rank 0.*dist-rec replay .* --step \d; the run"
    ):
        run(_config(data, tmp_path, nonfinite_loss="stop"), alone)


def test_what_cannot_be_replayed_is_said(broken: Path, alone: Ranks, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected a checkpoint of before step 1, got step 6, step 5"):
        checkpoint_before(broken, 1)
    shutil.rmtree(broken / "checkpoints" / "step-6")
    with pytest.raises(ConfigError, match="--step 99: the run has 6 steps"):
        list(replay(broken, 99, alone))
    with pytest.raises(ConfigError, match=r"recipe\.yaml: no such file"):
        list(replay(tmp_path / "nowhere", 3, alone))
