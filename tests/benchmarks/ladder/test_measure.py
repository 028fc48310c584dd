"""Whole ladders at toy size, on two ranks as always; times are not looked at."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.ladder import measure as measuring
from benchmarks.ladder.cell import Cell
from benchmarks.ladder.measure import HALF_TOLERANCE, TOLERANCE, Rounds, Turns, check_logits, measure
from benchmarks.ladder.rows import ROWS

EAGER = [name for name, row in ROWS.items() if not row.compiled]  # compiling takes a minute
CELLS = [
    (Cell("longer", "30", 3, 4, batch=2, steps=2), EAGER),
    pytest.param(
        Cell("hyformer", "30", 2, 1, batch=2, steps=2, auc_steps=20),
        ["0", "1", "2", "5", "sync"],
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("cell", "rows"), CELLS)
def test_every_row_trains_the_same_model(cell: Cell, rows: list[str]) -> None:
    found = measure(cell, rows, rounds=1)
    assert [*found["rows"]] == rows and found["samples"] == 2 * 2 * 2 * cell.candidates
    for name, row in found["rows"].items():
        assert row["name"] == ROWS[name].name
        assert row["error"] <= (HALF_TOLERANCE if name == "10" else TOLERANCE)
        assert len(row["processor"]) == len(row["wall"]) == len(row["rounds"]) == 1
        assert row["bytes"] > 0 and row["collate_ms"] > 0
        assert (row["auc"] is not None) == bool(cell.auc_steps)
    if cell.auc_steps:  # rows that read the same batches and update alike learn the same
        auc = {name: row["auc"] for name, row in found["rows"].items()}
        assert auc["1"] == pytest.approx(auc["0"], abs=1e-3) and auc["1"] == pytest.approx(auc["sync"], abs=1e-3)
    assert found["rows"]["5"]["bytes"] < found["rows"]["2"]["bytes"] < found["rows"]["0"]["bytes"]


def test_a_row_that_is_another_model_is_refused() -> None:
    logits = torch.randn(4, 1)

    def job(row: str, factor: float) -> Any:
        return SimpleNamespace(row=ROWS[row], collated=lambda parts: parts, predict=lambda _: (factor * logits, None))

    ranks = SimpleNamespace(largest=lambda *values: list(values))
    start: Any = SimpleNamespace(cell=CELLS[0][0], ranks=ranks)
    jobs = {"sync": job("sync", 1.0), "2": job("2", 1.0 + 1e-6), "10": job("10", 1.01)}
    found = check_logits(jobs, start)
    assert found["sync"] == 0 and 0 < found["2"] < TOLERANCE < found["10"] < HALF_TOLERANCE
    for name, wrong in (("2", 1.0 + 1e-5), ("10", 1.1), ("6", float("nan"))):
        with pytest.raises(ValueError, match=rf"row {name} \(.*\): expected the logits of dist_rec's model within"):
            check_logits(jobs | {name: job(name, wrong)}, start)


def test_a_rank_that_fails_fails_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        measuring, "start_job", lambda *_: subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
    )
    with pytest.raises(RuntimeError, match=r"longer, 30 events, .*: a rank failed, and says above why"):
        measure(Cell("longer", "30", 1, 1, batch=2, steps=2), ["1"], rounds=1)


def test_slow_rows_take_part_in_fewer_rounds() -> None:
    rounds = Rounds({}, None)  # pyright: ignore[reportArgumentType]
    assert rounds._every({"0": 100.0, "1": 10.0, "2": 9.0}, 7) == {"0": 3, "1": 1, "2": 1}
    assert rounds._every({"0": 10_000.0, "1": 10.0, "2": 9.0}, 7) == {"0": 6, "1": 1, "2": 1}  # two blocks at least


def test_sets_take_turns(tmp_path: Path) -> None:
    (tmp_path / "turn").write_text("0")
    first, second = (Turns(tmp_path / "turn", me) for me in (0, 1))
    first.wait()
    first.done()
    second.wait()
    second.done()
    first.wait()
    assert (tmp_path / "turn").read_text() == "2"
