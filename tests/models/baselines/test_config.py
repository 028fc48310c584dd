"""What a recipe may say of the baselines."""

from typing import Any

import pytest

from dist_rec.common.strict import ConfigError, check
from dist_rec.config import Config


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"model": {"name": "din", "din": {"hidden": 0}}}, "model.din.hidden: .*greater than or equal to 1, got 0"),
        ({"model": {"sum_pooling": {"dropout": 1.0}}}, "model.sum_pooling.dropout: .*less than 1, got 1.0"),
    ],
)
def test_a_wrong_value_says_where_what_and_what_came(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(Config, {"data": {"path": "somewhere"}, **tree}, "here")
