from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.ladder.cell import Cell, write_data
from benchmarks.ladder.quality import auc_after
from benchmarks.ladder.rows import ROWS


def test_too_few_test_requests_are_refused(tmp_path: Path) -> None:
    write_data(Cell("longer", "30", 1, 1, batch=2, steps=2), tmp_path / "data")
    cell = Cell("longer", "30", 1, 1, batch=64, steps=2)
    start: Any = SimpleNamespace(cell=cell, ranks=None, folder=tmp_path / "data")
    with pytest.raises(ValueError, match="test: expected at least 128 requests, got"):
        auc_after(ROWS["1"], start)
