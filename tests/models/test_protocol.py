"""The base classes of models: what a model of one's own has to give, and what it need not."""

import pytest
import torch
from torch import Tensor, nn

from dist_rec.models.layers.jagged import CandidateView
from dist_rec.models.options import ModelOptions
from dist_rec.models.protocol import Model, SequenceModel, SequenceSummary
from tests.models.batches import make_view


class Least(SequenceSummary):
    """As little as a summary can be: a mean over all tokens, the same for every candidate."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 4
        self.out = nn.Linear(4, 4)

    def forward(self, tokens: Tensor, lengths: Tensor, view: CandidateView) -> Tensor:
        return self.out(tokens.mean(0)).expand(view.features.shape[0], -1)


def test_parameters_are_counted_with_the_module_that_has_them() -> None:
    model = Least()
    assert {model.part_of(name) for name, _ in model.named_parameters()} == {"out"}
    assert model.Config is ModelOptions


def test_a_summary_gives_one_row_for_each_candidate() -> None:
    view = make_view([2, 1], dtype=torch.float32)
    assert Least()(torch.ones(5, 4), torch.tensor([3, 2]), view).shape == (3, 4)


@pytest.mark.parametrize("kind", [SequenceModel, SequenceSummary])
def test_what_a_model_does_not_give_is_missing_when_it_is_used(kind: type[Model]) -> None:
    model = kind()
    with pytest.raises(NotImplementedError):
        model.forward(*[None] * (2 if kind is SequenceModel else 3))
    with pytest.raises(NotImplementedError):
        model.flops(3, 1)  # pyright: ignore[reportAttributeAccessIssue]
