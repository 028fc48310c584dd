"""What a recipe may say of HyFormer; more in tests/test_config.py and tests/models/test_check.py."""

from typing import Any

import pytest

from dist_rec.common.strict import ConfigError, check
from dist_rec.config import Config
from dist_rec.models.hyformer.config import MERGED, HyFormerConfig, HyFormerSequence


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"model": {"hyformer": {"pools": "none"}}}, "model.hyformer.pools: .*, got 'none'"),
        (
            {"model": {"hyformer": {"sequences": {"a": {"encoder": "gru"}}}}},
            "model.hyformer.sequences.a.encoder: .*, got 'gru'",
        ),
    ],
)
def test_a_wrong_value_says_where_what_and_what_came(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(Config, {"data": {"path": "somewhere"}, **tree}, "here")


def test_merged_sequences_have_the_settings_of_the_first() -> None:
    options = HyFormerConfig.model_validate({"merge_sequences": True, "sequences": {"b": {"queries": 3}}})
    assert options.settings(["b", "a"]) == {MERGED: HyFormerSequence(queries=3)}
    apart = options.model_copy(update={"merge_sequences": False})
    assert apart.settings(["b", "a"]) == {"b": HyFormerSequence(queries=3), "a": HyFormerSequence()}
