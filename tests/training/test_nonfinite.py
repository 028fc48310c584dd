"""Batches whose loss is not finite: on which rank, at which step, with which rows."""

import json
from pathlib import Path

import pytest

from dist_rec.common.errors import RunError
from dist_rec.data.files import RowGroup
from dist_rec.data.reader import RequestReader
from dist_rec.training.nonfinite import note_nonfinite, rows_told
from tests.data.requests import make_schema
from tests.helpers.ranks import run_ranks
from tests.training.runs import these_ranks


def test_rows_are_told_by_file_and_row_group() -> None:
    one, two = RowGroup(Path("a.parquet"), 0, 9), RowGroup(Path("a.parquet"), 1, 9)
    assert rows_told([(one, 3), (two, 0), (one, 1)]) == [
        {"file": "a.parquet", "row_group": 0, "rows": [3, 1]},
        {"file": "a.parquet", "row_group": 1, "rows": [0]},
    ]


def _note(data: Path, out: Path, stop: bool) -> str:
    """Rank 1 has two such steps."""
    ranks = these_ranks()
    reader = RequestReader(
        folders=[data / "train"], schema=make_schema(), batch_size=4, rank=ranks.rank, world_size=ranks.world_size
    )
    try:
        return note_nonfinite([2, 3] if ranks.rank else [], reader, 1, out, ranks, stop=stop)
    except RunError as error:
        return f"RunError: {error}"


@pytest.mark.parametrize("stop", [False, True])
def test_all_ranks_say_the_same_and_the_rank_writes_its_rows(data: Path, tmp_path: Path, stop: bool) -> None:
    first, second = run_ranks(_note, 2, data, tmp_path, stop)
    assert first == second and "step 2 on rank 1, step 3 on rank 1" in first
    assert f"dist-rec replay {tmp_path} --step 2" in first and first.startswith("RunError") == stop
    names = sorted(path.name for path in (tmp_path / "nonfinite").iterdir())
    assert names == ["step-2-rank-1.json", "step-3-rank-1.json"]
    found = json.loads((tmp_path / "nonfinite" / names[0]).read_text())
    reader = RequestReader(folders=[data / "train"], schema=make_schema(), batch_size=4, rank=1, world_size=2)
    assert found == {"step": 2, "rank": 1, "rows": rows_told(reader.rows_at(1, 1))}
