from typing import Any

import numpy as np
import pytest

from dist_rec.common.open_ids import (
    EXTRA_ROWS,
    EvictionConfig,
    buckets_of,
    dynamic_rows,
    expected_sharing,
    split_tables,
)
from dist_rec.common.strict import ConfigError, check


@pytest.mark.parametrize("rows", [1, 2, 300, 512, 1000, 3000, 13_000, 200_000, 10_000_000])
def test_ranks_hold_whole_buckets(rows: int) -> None:
    buckets, whole = buckets_of(rows), dynamic_rows(rows)
    assert whole % buckets == 0 and rows + EXTRA_ROWS <= whole < rows + EXTRA_ROWS + buckets
    assert buckets == 1 or rows // buckets >= 256
    if rows >= 13_000:
        assert all(buckets % ranks == 0 for ranks in (1, 2, 3, 4, 6, 8, 12, 16, 24, 48))
    if rows >= 200_000:
        assert all(buckets % ranks == 0 for ranks in (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32))


def test_tables_are_numbers_and_kinds() -> None:
    tree = {"tables": {"a": 3, "b": {"rows": 4, "ids": "hashed"}, "c": {"rows": 5}, "d": {"rows": 6, "ids": "range"}}}
    assert split_tables(tree) == {"tables": {"a": 3, "b": 4, "c": 5, "d": 6}, "open_ids": {"b": "hashed"}}
    both = {"tables": {"b": {"rows": 4, "ids": "range"}}, "open_ids": {"b": "hashed"}}
    assert split_tables(both) == {"tables": {"b": 4}, "open_ids": {}}
    for other in (None, {"tables": 3}, {"tables": {"a": 3}}):
        assert split_tables(other) == other
    for wrong in ({"ids": "hashed"}, {"rows": 3, "kind": 2}):
        with pytest.raises(ValueError, match="table a: expected a number of ids, or rows and ids, got"):
            split_tables({"tables": {"a": wrong}})


def test_expected_sharing() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 1000, 700)
    measured = float((np.bincount(rows, minlength=1000)[rows] > 1).mean())
    assert expected_sharing(700, 1000) == pytest.approx(measured, abs=0.05)
    assert expected_sharing(1, 10) == expected_sharing(0, 10) == 0.0


@pytest.mark.parametrize("wrong", [{"policy": "ttl"}, {"policy": "lru", "ttl": 3}, {"ttl": 3}])
def test_ttl_and_its_steps_belong_together(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected ttl with policy: ttl and only there"):
        check(EvictionConfig, wrong, "eviction")
    assert EvictionConfig.model_validate({"policy": "ttl", "ttl": 3}).ttl == 3
