"""What a recipe may say of RankMixer."""

from typing import Any

import pytest

from dist_rec.common.strict import ConfigError, check
from dist_rec.config import Config


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"model": {"rankmixer": {"widht": 8}}}, "model.rankmixer.widht: unknown key; did you mean 'width'"),
        ({"model": {"rankmixer": {"layers": 0}}}, "model.rankmixer.layers: .*greater than or equal to 1, got 0"),
    ],
)
def test_a_wrong_value_says_where_what_and_what_came(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(Config, {"data": {"path": "somewhere"}, **tree}, "here")
