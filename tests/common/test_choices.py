from typing import get_args

import pytest

from dist_rec.common.choices import Compress, CorrectionKind, DenseUpdate, check_choice
from dist_rec.config import OptimConfig


@pytest.mark.parametrize(
    ("field", "choices"), [("dense_update", DenseUpdate), ("correction", CorrectionKind), ("compress", Compress)]
)
def test_a_recipe_takes_every_choice_of_the_optimizer(field: str, choices: object) -> None:
    for value in get_args(choices):
        check_choice(field, value, choices)
        assert getattr(OptimConfig.model_validate({field: value}), field) == value


def test_another_word_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="compress must be none or bf16, got 'fp8'"):
        check_choice("compress", "fp8", Compress)
