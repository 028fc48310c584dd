from dataclasses import dataclass
from pathlib import Path

from benchmarks.tables import append, read_rows


@dataclass(frozen=True)
class _Run:
    name: str
    seed: int
    auc: float


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    """A study that was stopped finds what it has done."""
    table, rows = tmp_path / "runs.csv", [_Run("a", 1, 0.5), _Run("b, c", 2, 0.625)]
    assert read_rows(table, _Run) == []
    for number, row in enumerate(rows, start=1):
        append(table, row)
        assert read_rows(table, _Run) == rows[:number]
