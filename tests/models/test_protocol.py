"""Every built-in model keeps the promises of its base class."""

from typing import Any

import pytest

from dist_rec.models.options import ModelOptions
from dist_rec.models.protocol import Model, SequenceModel, SequenceSummary
from dist_rec.registry import MODELS
from tests.models.batches import MODELS as SMALL
from tests.models.batches import make_model


@pytest.mark.parametrize("name", MODELS.built_in)
def test_a_built_in_model_is_one_of_the_two_kinds(name: str) -> None:
    model = MODELS.resolve(name)
    assert issubclass(model, Model) and issubclass(model, SequenceModel) != issubclass(model, SequenceSummary)
    assert issubclass(model.Config, ModelOptions)


@pytest.mark.parametrize(("name", "changes"), SMALL.items())
def test_its_width_is_what_it_gives_the_head_and_every_parameter_has_a_part(name: str, changes: dict[str, Any]) -> None:
    ranker = make_model(**changes).ranker
    assert ranker.body.width > 0 and ranker.head_width >= ranker.body.width
    assert all(ranker.body.part_of(parameter) for parameter, _ in ranker.body.named_parameters())
