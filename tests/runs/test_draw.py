"""The curves of runs: which panels, which lines, at which steps and samples."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

from dist_rec.runs.draw import draw
from dist_rec.runs.find import find_runs
from dist_rec.runs.groups import groups_of
from tests.runs.folders import write_run, write_study


def _panels(folder: Path, *metrics: str) -> list[Axes]:
    return draw(groups_of(find_runs(folder).runs), metrics).axes


def _points(axes: Axes, line: int = 0) -> list[tuple[float, float]]:
    found = axes.get_lines()[line]
    return list(zip(np.asarray(found.get_xdata()).tolist(), np.asarray(found.get_ydata()).tolist(), strict=True))


def test_loss_and_metrics_over_steps_and_samples(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.75)
    loss, loss_of_samples, auc, auc_of_samples = _panels(tmp_path, "auc")
    assert _points(loss) == [(10, 0.7), (20, 0.6), (30, 0.5)]
    assert _points(loss_of_samples) == [(320, 0.7), (640, 0.6), (960, 0.5)]
    assert _points(auc) == [(15, pytest.approx(0.55)), (30, pytest.approx(0.70))]
    assert _points(auc_of_samples) == [(480, pytest.approx(0.55)), (960, pytest.approx(0.70))]
    assert auc.get_title(loc="left") == "validation auc, click" and auc_of_samples.get_xlabel() == "samples"


def test_groups_have_colours_and_runs_lines(tmp_path: Path) -> None:
    write_study(tmp_path / "a", [0.7, 0.8])
    write_run(tmp_path / "b", optim={"lr": 0.5})
    lines = _panels(tmp_path, "auc", "logloss")[0].get_lines()
    assert [line.get_color() for line in lines] == ["C0", "C0", "C1"]
    assert [line.get_label() for line in lines] == ["A a/seed-1", "A a/seed-2", "B b"]


def test_runs_of_one_group_have_colours_of_their_own_and_many_share_a_name(tmp_path: Path) -> None:
    write_study(tmp_path / "a", [0.7] * 11)
    axes = _panels(tmp_path)[0]
    assert len({line.get_color() for line in axes.get_lines()}) == 10
    legend = axes.get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["A"]


def test_a_run_without_a_log_has_no_line(tmp_path: Path) -> None:
    write_run(tmp_path / "a")
    (tmp_path / "a" / "metrics.jsonl").write_text("")
    axes = _panels(tmp_path, "auc")
    assert len(axes) == 2 and not axes[0].get_lines() and axes[0].get_legend() is None
