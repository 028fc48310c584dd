"""Windows are trained on in order of time, each judged before."""

from pathlib import Path

import pytest
import torch

from dist_rec.config import Config
from dist_rec.training.windows import draw_drift, of_windows, windows_table
from tests.helpers.ranks import run_ranks
from tests.training.runs import (
    evaluate_split,
    load,
    losses,
    make_config,
    rows,
    run,
    saved_weights,
    these_ranks,
    write_dataset,
)

WINDOWS = {"w0": [8, 8], "w1": [8, 8, 8], "w2": [8], "w3": [8, 5]}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, dict[str, float]]:
    folder = tmp_path_factory.mktemp("windows")
    data = write_dataset(folder / "data", WINDOWS)
    config = make_config(
        data,
        folder / "runs",
        data={"windows": list(WINDOWS)},
        checkpoint={"every_steps": 2},
        optim={"dense_update": "delayed"},
    )
    return config, run_ranks(_runs, 1, config)[0]


def _runs(config: Config) -> dict[str, float]:
    """A whole run, one that resumes at the end of the first window, and what the weights there say of the second."""
    ranks = these_ranks()
    run(config, ranks, "whole")
    checkpoint = Path(config.run.out) / "whole" / "checkpoints" / "step-2"
    run(config, ranks, "resumed", checkpoint)
    model, _ = load(config, ranks, checkpoint)
    return {task: of.auc for task, of in evaluate_split(config, model, ranks, "w1").items()}


def test_every_window_but_the_first_is_judged_before_it_is_trained_on(ran: tuple[Config, dict[str, float]]) -> None:
    config, found = ran
    judged = rows(config, "whole", "window")
    tasks = list(dict.fromkeys(row["task"] for row in judged))
    assert [(row["window"], row["step"]) for row in judged if row["task"] == tasks[0]] == [
        ("w1", 2),
        ("w2", 5),
        ("w3", 6),
    ]
    assert len(losses(config, "whole")) == 6, "the last window is judged only"
    for row in judged[: len(tasks)]:
        assert row["auc"] == pytest.approx(found[row["task"]], abs=1e-6)


def test_a_run_resumes_within_its_windows_to_the_bit(ran: tuple[Config, dict[str, float]]) -> None:
    config, _ = ran
    assert losses(config, "resumed") == losses(config, "whole")[2:]
    assert (
        rows(config, "resumed", "window") == rows(config, "whole", "window")[-len(rows(config, "resumed", "window")) :]
    )
    whole, resumed = saved_weights(config, "whole"), saved_weights(config, "resumed")
    assert all(torch.equal(resumed[name], of) for name, of in whole.items())


def test_windows_as_a_table_and_a_picture(tmp_path: Path) -> None:
    of = {
        "auc": 0.5,
        "grouped_auc": None,
        "logloss": 0.4,
        "ne": 0.9,
        "calibration": 1.1,
        "candidates": 7,
        "label_rate": 0.2,
    }
    found = [
        {"event": "window", "window": "a", "task": "click", **of},
        {"event": "train", "loss": 1.0},
        {"event": "window", "window": "b", "task": "click", **of, "auc": 0.7},
    ]
    judged = of_windows(found)
    assert windows_table(judged)[2:] == [
        "| a | click | 0.5000 | - | 0.4000 | 0.9000 | 1.100 | 7 | 0.200 |",
        "| b | click | 0.7000 | - | 0.4000 | 0.9000 | 1.100 | 7 | 0.200 |",
        "| mean of 2 | click | 0.6000 | - | 0.4000 | 0.9000 | 1.100 | 14 | 0.200 |",
    ]
    nothing = {"auc": None, "logloss": None, "ne": None, "calibration": None, "candidates": 0, "label_rate": None}
    judged.append({**judged[0], "window": "c", **nothing})
    assert windows_table(judged)[-2:] == [
        "| c | click | - | - | - | - | - | 0 | - |",
        "| mean of 2 | click | 0.6000 | - | 0.4000 | 0.9000 | 1.100 | 14 | 0.200 |",
    ]
    draw_drift(judged, tmp_path / "drift.png")
    assert (tmp_path / "drift.png").read_bytes().startswith(b"\x89PNG")
