"""What a recipe may say of LONGER; more in tests/test_config.py and tests/models/test_check.py."""

from typing import Any

import pytest

from dist_rec.common.strict import ConfigError, check
from dist_rec.config import Config


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"model": {"longer": {"globals": []}}}, "model.longer.globals: .*at least 1 item"),
        ({"model": {"longer": {"globals": ["item"]}}}, "model.longer.globals.0: .*, got 'item'"),
        ({"model": {"longer": {"queries": "learnable", "k": 0}}}, "learnable needs longer.k of at least 1, got 0"),
    ],
)
def test_a_wrong_value_says_where_what_and_what_came(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(Config, {"data": {"path": "somewhere"}, **tree}, "here")
