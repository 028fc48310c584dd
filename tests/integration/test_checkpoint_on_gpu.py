"""Checkpoints of a GPU: a run that goes on ends with the same bits, and other devices read them."""

import json
from pathlib import Path
from typing import Any

import pytest

from dist_rec.common.choices import DenseUpdate
from dist_rec.config import Config
from tests.helpers.devices import DEVICES, one_rank
from tests.models.batches import MODELS
from tests.training.runs import (
    assert_same_weights,
    evaluate_split,
    load,
    losses,
    make_config,
    rows,
    run,
    saved_state,
    saved_weights,
    write_dataset,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "data")


def _config(data: Path, out: Path, /, **changes: Any) -> Config:
    """Eight steps, with an evaluation after the fourth, which applies the gradient in flight."""
    return make_config(
        data, out, run={"epochs": 2, "max_steps": 8, "eval_every": 4}, checkpoint={"every_steps": 2}, **changes
    )


@pytest.mark.parametrize(
    ("model", "update", "optimizer"),
    [
        ("longer", "delayed", "muon"),
        pytest.param("longer", "sync", "adamw", marks=pytest.mark.slow),
        pytest.param("hyformer", "delayed", "adamw", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("device", DEVICES)
def test_going_on_equals_no_interruption(
    data: Path, tmp_path: Path, device: str, model: str, update: DenseUpdate, optimizer: str
) -> None:
    """To the bit; with dropout, so that the random state of the GPU must come back too."""
    # A section of the model has its options with the defaults of the others; dropout is one of both.
    options = {**MODELS[model], model: {**MODELS[model].get(model, {}), "dropout": 0.3}}
    config = _config(data, tmp_path, model=options, optim={"dense_update": update, "optimizer": optimizer})
    with one_rank(device) as ranks:
        run(config, ranks, "whole")
        for step in (2, 4):
            run(config, ranks, f"from-{step}", resume=tmp_path / "whole" / "checkpoints" / f"step-{step}")
    for step in (2, 4):
        assert losses(config, f"from-{step}") == losses(config, "whole")[step:]
        assert rows(config, f"from-{step}", "test") == rows(config, "whole", "test") != []
        assert_same_weights(saved_weights(config, f"from-{step}"), saved_weights(config, "whole"))


@pytest.mark.parametrize("device", DEVICES)
def test_the_cpu_reads_what_the_device_wrote(data: Path, tmp_path: Path, device: str) -> None:
    """The weights to the bit, the metrics to the rounding of the scores, and a run goes on there."""
    config = _config(data, tmp_path, model={"precision": dict.fromkeys(("tokens", "layers", "head"), "fp32")})
    folder = tmp_path / "run" / "checkpoints"
    with one_rank(device) as ranks:
        run(config, ranks)
        written = {name: value.cpu() for name, value in saved_state(folder / "last")["model"].items()}
    with one_rank("cpu") as ranks:
        model, _ = load(config, ranks, folder / "step-8")
        metrics = evaluate_split(config, model, ranks)
        result = run(config, ranks, "on-the-cpu", resume=folder / "step-6")
    tested = [json.loads(line) for line in (folder.parent / "metrics.jsonl").read_text().splitlines()]
    expected = {row["task"]: row["logloss"] for row in tested if row["event"] == "test"}
    assert {task: found.logloss for task, found in metrics.items()} == pytest.approx(expected, rel=1e-5)
    assert result.steps == 8 and losses(config, "on-the-cpu") == pytest.approx(losses(config)[6:], rel=1e-4)
    assert written.keys() == saved_weights(config, "on-the-cpu").keys()
