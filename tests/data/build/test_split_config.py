import datetime
from typing import Any

import pytest

from dist_rec.common.strict import ConfigError, check
from dist_rec.data.build.split_config import SplitConfig


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"by": "windows"}, "every: expected it with by: windows"),
        ({"first": "1d", "valid": 0.1, "test": 0.1}, "every: expected it with by: windows, and there only"),
        ({"by": "windows", "every": "1d", "valid": 0.1}, "by: windows takes no valid and test"),
        ({"by": "last", "valid": 0.1}, "by: last takes no valid and test"),
        ({"valid": 0.5, "test": 0.5}, "shares of valid and test that leave some for training"),
        ({"valid": 0.5, "test": "2024-01-01"}, "valid and test both as shares"),
        ({"by": "user", "valid": "2024-01-01", "test": "2024-01-02"}, "valid and test both as shares"),
        ({"by": "column"}, "column: expected it with by: column, and there only, as train"),
        ({"column": "fold", "valid": 0.1, "test": 0.1}, "column: expected it with by: column, and there only"),
        ({"train": ["a"], "valid": 0.1, "test": 0.1}, "column: expected it with by: column, and there only, as train"),
        ({"by": "column", "column": "fold", "test": 0.1}, "by: column takes no valid and test"),
        ({"by": "column", "column": "fold", "train": ["a", "a"]}, "train: expected every name once, got 'a'"),
        ({"by": "column", "column": "fold", "train": ["a/b"]}, "train: expected a name of a folder, .* got 'a/b'"),
        (
            {"by": "column", "column": "fold", "train": ["Sequences"]},
            "and not sequences or attributes, got 'Sequences'",
        ),
        ({"by": "column", "column": "fold", "train": []}, "train"),
    ],
)
def test_splits_that_cannot_be(split: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(SplitConfig, split, "split")


def test_dates_of_yaml_are_dates() -> None:
    split = {"valid": datetime.date(2024, 5, 1), "test": datetime.date(2024, 5, 8)}
    assert SplitConfig.model_validate(split).valid == "2024-05-01"
