import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks.ladder.plain_longer import attention_mask
from tests.helpers.ladder import Both


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(("candidates", "merge"), [(1, 1), (3, 1), (3, 4), (1, 4)])
def test_logits_and_gradients_are_those_of_dist_rec(packed: bool, candidates: int, merge: int) -> None:
    both = Both("longer", candidates, merge, packed=packed)

    @given(st.lists(st.integers(0, 40), min_size=1, max_size=5))
    @example([0])
    @example([1, 0, 17, 40])
    @settings(max_examples=8)
    def check(lengths: list[int]) -> None:
        got, expected = both.logits(lengths)
        torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-5)

    check()
    got, expected = both.logits([40, 3, 20])
    for ranker, logits in ((both.plain, got), (both.ranker, expected)):
        (logits * torch.linspace(1, 2, logits.numel()).view_as(logits)).sum().backward()
        assert all(parameter.grad is not None for parameter in ranker.parameters())
    for (name, own), theirs in zip(both.plain.named_parameters(), both.ranker.parameters(), strict=True):
        torch.testing.assert_close(own.grad, theirs.grad, rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")


def test_a_request_per_candidate_has_the_same_logits() -> None:
    got, expected = Both("longer", 3, packed=False).logits([30, 0, 5], per_candidate=True)
    torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-5)


def test_the_mask_of_two_candidates_with_two_rows_each() -> None:
    """One request with two events after one column of padding; the last two columns query, and the groups' rows."""
    shown = attention_mask(torch.tensor([[False, True, True]]), n=2, g=4, m=2)[0, 0] == 0
    assert shown.int().tolist() == [
        [0, 1, 0, 0, 0, 0, 0],
        [0, 1, 1, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 1, 0, 0],
        [0, 1, 1, 0, 0, 1, 0],
        [0, 1, 1, 0, 0, 1, 1],
    ]
