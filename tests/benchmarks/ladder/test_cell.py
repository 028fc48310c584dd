import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.ladder.cell import SPREAD, Cell, batches_of, history_lengths, read_requests, write_data


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (("din", "200", 1, 1, 1, 1), "model: expected one of longer, hyformer, got 'din'"),
        (("longer", "short", 1, 1, 1, 1), "lengths: expected quickstart or a number of events from 10 on, got 'short'"),
        (("longer", "5", 1, 1, 1, 1), "got '5'"),
        (("hyformer", "200", 1, 4, 1, 1), "HyFormer merges no events, expected 1, got 4"),
        (("longer", "200", 0, 1, 1, 1), "expected numbers from 1 on"),
    ],
)
def test_a_cell_that_cannot_be_measured_is_refused(cell: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cell(*cell).check()


def test_all_histories_of_a_cell_have_its_length(tmp_path: Path) -> None:
    cell = Cell("longer", "60", 2, 1, batch=8, steps=3)
    write_data(cell, tmp_path / "data")
    requests, schema = read_requests(cell, tmp_path / "data", "train", 2 * cell.requests)
    lengths = history_lengths(requests, schema)
    assert len(lengths) == 48 and lengths.max() <= 60 and lengths.min() >= (1 - SPREAD) * 60
    assert len(np.unique(lengths)) > 1
    with pytest.raises(ValueError, match="expected 100000 requests with 60 events, got"):
        read_requests(cell, tmp_path / "data", "train", 100_000)


def test_the_recipe_of_a_merged_cell(tmp_path: Path) -> None:
    config = Cell("longer", "60", 2, 4, 8, 3).recipe(tmp_path, ("optim.dense_update=sync",))
    longer = config.model.section("longer")
    assert (longer.merge, longer.inner_trans, config.optim.clip_norm) == (4, True, None)
    assert (config.data.batch_size, config.optim.dense_update, config.optim.optimizer.name) == (8, "sync", "adamw")


@given(st.lists(st.integers(0, 99), min_size=1, max_size=40), st.integers(1, 7), st.booleans())
def test_every_request_is_in_one_batch(lengths: list[int], batch: int, alike: bool) -> None:
    parts = batches_of(np.array(lengths), batch, alike=alike)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(lengths)))
    assert sorted(len(part) for part in parts)[1:] == [batch] * (len(parts) - 1)
    if alike:  # no batch reaches into the lengths of another
        spans = sorted((min(lengths[of] for of in part), max(lengths[of] for of in part)) for part in parts)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))
