import sys
from pathlib import Path

import pytest

from benchmarks import bench_sharing
from benchmarks.sharing.study import FIELDS, Cell


def test_the_page_is_made_of_every_table_after_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = ["synthetic", "apart", "", "1", "1", *(["0.5"] * (len(FIELDS) - 5))]
    tables = [tmp_path / "a.csv", tmp_path / "b.csv"]
    tables[1].write_text("\n".join([",".join(FIELDS), ",".join(row)]) + "\n")
    ran = []

    def run_study(paths: list[Path], todo: list[Cell], part: tuple[int, int], source: Path) -> None:
        ran.append((paths, {cell.data for cell in todo}, {cell.seed for cell in todo}, part))

    monkeypatch.setattr(bench_sharing, "run_study", run_study)
    arguments = ["bench_sharing", "--table", *map(str, tables), "--data", "synthetic", "--seeds", "2"]
    out = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", [*arguments, "--out", str(out)])
    bench_sharing.main()
    assert "| apart | 256 | 1 | 1 | 0.5000 |" in out.read_text()
    out.unlink()
    monkeypatch.setattr(sys, "argv", [*arguments, "--out", str(out), "--part", "1/2"])
    bench_sharing.main()
    assert not out.exists(), "a part makes no page"
    assert ran == [(tables, {"synthetic"}, {1, 2}, part) for part in ((0, 1), (1, 2))]
