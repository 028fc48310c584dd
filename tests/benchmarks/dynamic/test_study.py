from dataclasses import replace
from math import isnan, nan
from pathlib import Path

from benchmarks.dynamic.stream import StreamConfig
from benchmarks.dynamic.study import ARMS, Row, config_of, page, read, run_study

SMALL = StreamConfig(windows=3, requests=130, active=60)


def test_every_arm_runs_and_what_is_there_is_not_run_again(tmp_path: Path) -> None:
    table = tmp_path / "runs.csv"
    run_study(table, SMALL, ARMS)
    rows = read(table)
    assert [(row.arm, row.window) for row in rows] == [(arm, window) for arm in ARMS for window in range(3)]
    assert {row.rows for row in rows if row.arm in ("full", "full, content", "hashed, all rows")} == {SMALL.items}
    assert all(isnan(row.hit) == ("dynamic" not in row.arm) for row in rows)
    assert len({row.best_auc for row in rows if row.window == 2}) == 1, "the same stream for all"
    run_study(table, SMALL, ARMS)
    assert len(read(table)) == len(rows)
    assert sum(line.startswith("| dynamic lru | 19 |") for line in page(rows, SMALL)) == 1


def test_means_are_over_the_last_windows_and_seeds() -> None:
    row = Row("hashed", 1, 0, 10, auc=0.5, best_auc=0.8, ne=0.9, hit=nan)
    rows = [replace(row, seed=seed, window=w, auc=0.1 * w + 0.01 * seed) for seed in (1, 3) for w in range(10)]
    text = list(page(rows, replace(SMALL, windows=10)))
    assert "| hashed | 10 | 0.8700 ± 0.0141 | 0.9000 ± 0.0000 | 0.8000 ± 0.0000 |  | 2 |" in text
    assert "| 4 | 0.4200 |" in text


def test_recipes_are_valid() -> None:
    assert config_of("dynamic lfu", 3).embedding.tables["item"].eviction is not None
