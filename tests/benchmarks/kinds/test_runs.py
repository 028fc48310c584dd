from dataclasses import replace
from math import isnan, nan
from pathlib import Path

from benchmarks.kinds.arms import BASE, Arm
from benchmarks.kinds.planted import RECIPE
from benchmarks.kinds.runs import Row, arms_table, config_of, read, run_arms
from benchmarks.kinds.world import KINDS, WorldConfig, write_world

ARMS = {BASE: Arm(), "price": Arm((KINDS["price"],), {KINDS["price"]: "buckets"})}


def test_every_arm_runs_and_what_is_there_is_not_run_again(tmp_path: Path) -> None:
    write_world(tmp_path / "world", WorldConfig(train=200, valid=20, test=50, items=100, new=40))
    table = tmp_path / "runs.csv"
    run_arms(table, tmp_path / "world", ARMS, RECIPE, 1)
    rows = read(table)
    assert [row.arm for row in rows] == list(ARMS) and all(isnan(row.best_auc) for row in rows)
    run_arms(table, tmp_path / "world", ARMS, RECIPE, 1)
    assert len(read(table)) == 2


def test_a_recipe_gets_path_seed_and_encodings() -> None:
    config = config_of(RECIPE, Path("place/data"), ARMS["price"], 7)
    assert config.data.path == "place/data" and config.run.seed == 7 and config.data.batch_size == 64
    assert config.data.numbers == {"candidate.price": "buckets"}


def test_gains_are_of_pairs() -> None:
    base = Row(BASE, 1, auc=0.6, logloss=0.5, best_auc=0.65)
    rows = [base, replace(base, seed=2, auc=0.62), replace(base, arm="price", auc=0.7, best_auc=0.75)]
    rows.append(replace(rows[-1], seed=2, auc=0.74))
    assert list(arms_table(rows, ARMS))[2:] == [
        "| ids alone | 0.6100 ± 0.0141 |  | 0.6500 |  | 0.5000 | 2 |",
        "| price | 0.7200 ± 0.0283 | +0.1100 ± 0.0141 | 0.7500 | +0.1000 | 0.5000 | 2 |",
    ]


def test_where_the_best_is_unknown_no_column_has_it() -> None:
    rows = [Row(BASE, 1, auc=0.6, logloss=0.5, best_auc=nan)]
    assert list(arms_table(rows, ARMS)) == [
        "| arm | AUC | against ids alone, paired | logloss | seeds |",
        "|---|---|---|---|---|",
        "| ids alone | 0.6000 ± 0.0000 |  | 0.5000 | 1 |",
    ]
