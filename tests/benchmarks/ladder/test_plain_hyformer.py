import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.helpers.ladder import Both


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("candidates", [1, 3])
def test_logits_are_those_of_dist_rec(packed: bool, candidates: int) -> None:
    both = Both("hyformer", candidates, packed=packed)

    @given(st.lists(st.integers(0, 30), min_size=1, max_size=5))
    @example([0])
    @example([0, 12, 1])
    @settings(max_examples=8)
    def check(lengths: list[int]) -> None:
        got, expected = both.logits(lengths)
        torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-5)

    check()


def test_a_request_per_candidate_has_the_same_logits() -> None:
    got, expected = Both("hyformer", 3, packed=False).logits([30, 0, 5], per_candidate=True)
    torch.testing.assert_close(got, expected, rtol=2e-5, atol=2e-5)


def test_gradients_are_those_of_dist_rec() -> None:
    both = Both("hyformer", 2)
    for logits in both.logits([20, 0, 3]):
        (logits * torch.linspace(1, 2, logits.numel()).view_as(logits)).sum().backward()
    for (name, own), theirs in zip(both.plain.named_parameters(), both.ranker.parameters(), strict=True):
        torch.testing.assert_close(own.grad, theirs.grad, rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
