"""A data file that vanishes in the middle of a run: said by its name, and the run goes on from its checkpoint when the
file is there again; or left out, where the recipe says so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.data.errors import DataError
from dist_rec.data.writer import write_schema, write_split
from dist_rec.training.failure import EXIT
from dist_rec.training.kept import newest_first
from dist_rec.training.loop import train_one
from dist_rec.training.ranks import start_ranks
from dist_rec.training.report import config_yaml
from dist_rec.training.run_log import RunLog
from tests.data.requests import make_rows, make_schema, make_table
from tests.helpers.torchrun import start, wait_for_step
from tests.training.runs import assert_same_weights, make_config, quiet_console, rows, run, saved_weights

REQUESTS, OF_A_FILE = 96, 24
CHANGES: dict[str, Any] = {
    "data": {"shuffle_window": 8, "valid": [], "test": []},
    "run": {"epochs": 2},
    "checkpoint": {"every_steps": 2},
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four files of three row groups."""
    schema, table = make_schema(), make_table(make_rows(REQUESTS))
    write_schema(tmp_path / "data", schema)
    write_split(tmp_path / "data" / "train", table, schema, rows_per_group=8, rows_per_file=OF_A_FILE)
    return tmp_path / "data"


def _gone(data: Path) -> Path:
    return data / "train" / "part-00002.parquet"


def _loses_it(data: Path, step: int) -> Callable[[dict[str, Any]], None]:
    """Hears the log of a run and takes a file away after a step."""

    def hear(record: dict[str, Any]) -> None:
        if record["step"] == step:
            _gone(data).rename(data / "aside")

    return hear


def test_the_run_ends_with_the_file_and_goes_on_when_it_is_back(data: Path, tmp_path: Path) -> None:
    config = make_config(data, tmp_path, **CHANGES)
    with start_ranks(config.parallel) as alone:
        run(config, alone, "whole")
        told = rf"{_gone(data)}: expected a Parquet file, got nothing there"
        with (
            RunLog(tmp_path / "run", is_main=True, console=quiet_console(), hear=_loses_it(data, 3)) as log,
            pytest.raises(DataError, match=told),
        ):
            train_one(config, alone, log)
        newest = newest_first(tmp_path / "run" / "checkpoints")[0]  # others came until the file was wanted
        assert 2 <= int(newest.name.removeprefix("step-")) < 12
        with pytest.raises(
            ConfigError, match=rf"{data / 'train'}: expected 96 requests, .* got 72; is a data file mis"
        ):
            run(config, alone, "early", newest)
        (data / "aside").rename(_gone(data))
        run(config, alone, "again", newest)
    assert_same_weights(saved_weights(config, "again"), saved_weights(config, "whole"))


def test_it_is_left_out_and_counted_where_the_recipe_says_so(data: Path, tmp_path: Path) -> None:
    """From the first epoch some of its row groups, and all of them from the second."""
    config = make_config(data, tmp_path, **{**CHANGES, "data": CHANGES["data"] | {"unreadable": "skip"}})
    with (
        start_ranks(config.parallel) as alone,
        RunLog(tmp_path / "run", is_main=True, console=quiet_console(), hear=_loses_it(data, 3)) as log,
    ):
        assert train_one(config, alone, log).steps == 24
    lost = [row["lost_requests"] for row in rows(config)]
    assert 0 < sum(lost[:12]) <= OF_A_FILE and sum(lost[12:]) == OF_A_FILE


@pytest.mark.slow
def test_one_sentence_ends_all_ranks(data: Path, tmp_path: Path) -> None:
    """Which are not started again: the file would still be missing."""
    changes = {**CHANGES, "run": {"epochs": 60}, "data": CHANGES["data"] | {"workers": 1}}
    recipe, config = tmp_path / "recipe.yaml", make_config(data, tmp_path, **changes)
    recipe.write_text(config_yaml(config))
    job = start(recipe, restarts=1, more=("--resume", "auto"))
    wait_for_step(tmp_path / "tiny" / "metrics.jsonl", 5, job)
    _gone(data).rename(data / "aside")
    said, _ = job.communicate()
    assert job.returncode == EXIT and "Traceback" not in said
    spoken = [line for line in said.splitlines() if line.startswith("error:")]
    assert spoken == [f"error: {_gone(data)}: expected a Parquet file, got nothing there"], said
    assert int(newest_first(tmp_path / "tiny" / "checkpoints")[0].name.removeprefix("step-")) >= 4
