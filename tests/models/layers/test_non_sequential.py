"""Which columns of context and candidate each non-sequential token is made from."""

from dataclasses import replace

import pytest
import torch

from dist_rec.models.layers.jagged import CandidateView
from dist_rec.models.layers.non_sequential import GroupedTokens, SlicedTokens, side_by_side
from tests.models.batches import make_view

CONTEXT, TOTAL, WIDTH = 5, 11, 4  # of `make_view`: 5 columns of context, then 6 of the candidate
GROUPS = {"user": [slice(0, 3)], "both": [slice(3, 5), slice(5, 7)], "item": [slice(7, 8), slice(10, 11)]}
COUNTS = [2, 0, 1]


def _bumped(view: CandidateView, column: int) -> CandidateView:
    assert view.context is not None
    bump = torch.nn.functional.one_hot(torch.tensor(column), TOTAL)
    return replace(view, context=view.context + bump[:CONTEXT], features=view.features + bump[CONTEXT:])


def _changed(tokens: GroupedTokens | SlicedTokens, column: int) -> list[int]:
    """The tokens that move with one column, of every candidate; the others stay to the last bit."""
    view = make_view(COUNTS)
    moved = tokens(_bumped(view, column)) != tokens(view)
    assert torch.equal(moved.any(2).any(0), moved.any(2).all(0))
    return torch.nonzero(moved.any(2)[0])[:, 0].tolist()


def test_a_group_sees_its_own_columns_only() -> None:
    torch.manual_seed(0)
    tokens = GroupedTokens(GROUPS, WIDTH).double()
    owners = {column: g for g, parts in enumerate(GROUPS.values()) for s in parts for column in range(s.start, s.stop)}
    assert [_changed(tokens, column) for column in range(TOTAL)] == [
        [owners[column]] if column in owners else [] for column in range(TOTAL)
    ]


def test_a_group_is_a_projection_of_its_columns_side_by_side() -> None:
    tokens, view = GroupedTokens(GROUPS, WIDTH).double(), make_view(COUNTS)
    assert view.context is not None and tokens.count == 3
    for c, request in enumerate([0, 0, 2]):
        both = torch.cat([view.context[request, 3:5], view.features[c, :2]])
        torch.testing.assert_close(tokens(view)[c, 1], tokens.project[1](both), rtol=0.0, atol=1e-14)


@pytest.mark.parametrize("count", [1, 2, 4, 6, 11])
def test_slices_cover_every_column_once_in_order(count: int) -> None:
    torch.manual_seed(0)
    tokens = SlicedTokens(TOTAL, count, WIDTH).double()
    size = -(-TOTAL // count)
    assert [_changed(tokens, column) for column in range(TOTAL)] == [[column // size] for column in range(TOTAL)]
    assert tokens(make_view(COUNTS)).shape == (3, count, WIDTH)


def test_what_the_last_slice_lacks_is_zero() -> None:
    """11 columns in 4 slices of 3: the twelfth input of the projection is always zero, so its weights never learn."""
    tokens = SlicedTokens(TOTAL, 4, WIDTH).double()
    tokens(make_view(COUNTS)).square().sum().backward()
    assert tokens.project.weight.grad is not None
    assert tokens.project.weight.grad.any(2).tolist() == [[True] * 3] * 3 + [[True, True, False]]


def test_features_without_context_are_the_candidates_alone() -> None:
    view = replace(make_view(COUNTS), context=None)
    assert torch.equal(side_by_side(view), view.features)
    assert torch.equal(side_by_side(make_view(COUNTS))[:, CONTEXT:], view.features)
    grouped, sliced = GroupedTokens({"item": [slice(0, 2)], "rest": [slice(2, 6)]}, WIDTH), SlicedTokens(6, 2, WIDTH)
    for tokens in (grouped.double(), sliced.double()):
        assert tokens(view).shape == (3, 2, WIDTH)
