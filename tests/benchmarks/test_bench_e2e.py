import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench_e2e
from benchmarks.ladder.cell import Cell


def run(monkeypatch: pytest.MonkeyPatch, command: str) -> list[tuple[Cell, list[str], int]]:
    """The calls of `measure` that a command makes."""
    calls = []

    def measure(cell: Cell, rows: list[str], rounds: int) -> dict[str, Any]:
        calls.append((cell, rows, rounds))
        row = {"name": "x", "rounds": [0], "processor": [1.0], "wall": [1.0], "bytes": 1.0, "peak": None}
        row |= {"collate_ms": 1.0, "error": 0.0, "auc": None}
        return {"clock": "processor", "samples": 1, "events": 1.0, "rows": dict.fromkeys(rows, row)}

    monkeypatch.setattr(bench_e2e, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["bench_e2e", *shlex.split(command)])
    bench_e2e.main()
    return calls


def test_a_cell_by_its_lengths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = run(monkeypatch, f"ladder --lengths 1000 --rows 1,sync --rounds 2 --auc 5 --out {tmp_path / 'page.md'}")
    assert calls == [(Cell("longer", "1000", 4, 1, batch=8, steps=4, auc_steps=5), ["1", "sync"], 2)]
    page = (tmp_path / "page.md").read_text()
    assert "- commit: " in page and "## longer, 1000 events, batch 8, candidates 4, merge 1" in page


def test_the_command_of_a_page_makes_the_same_cell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    first = run(monkeypatch, f"ladder --model hyformer --lengths 70 --rows 2,7 --auc 3 --out {page}")
    command = next(line for line in page.read_text().splitlines() if line.startswith("`python -m"))
    assert run(monkeypatch, command.strip("`").partition("bench_e2e ")[2]) == first


def test_a_sweep_has_every_cell_of_the_question(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = run(monkeypatch, f"sweep --rows 1 --out {tmp_path / 'page.md'}")
    cells = list(dict.fromkeys(cell for cell, _, _ in calls))
    assert len(calls) == 3 * len(cells)
    longer = [cell for cell in cells if cell.model == "longer"]
    assert len(longer) == 5 * 2 * 3 and len(cells) - len(longer) == 5 * 3
    assert {(cell.lengths, cell.batch) for cell in cells} == {
        ("quickstart", 32), ("200", 32), ("1000", 8), ("2000", 4), ("2000", 16)
    }  # fmt: skip
    assert (tmp_path / "page.md").read_text().count("\n## ") == len(cells)


def test_a_sweep_leaves_repeated_histories_out_where_they_take_gigabytes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = "sweep --models longer --merges 1 --lengths 2000 --candidates 4,50 --rows 0,2 --repeats 1 --out"
    calls = run(monkeypatch, f"{command} {tmp_path / 'x'}")
    rows = {(cell.batch, cell.candidates): rows for cell, rows, _ in calls}
    assert rows == {(4, 4): ["0", "2"], (16, 4): ["0", "2"], (4, 50): ["0", "2"], (16, 50): ["2"]}
    assert "--rows 2 " in (tmp_path / "x").read_text()


@pytest.mark.parametrize(
    "wrong", ["ladder --rows 99", "ladder --model hyformer --merge 4", "sweep --lengths x --out y"]
)
def test_says_what_is_wrong_before_anything_starts(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, wrong)
    assert ended.value.code == 2
