import pytest
import torch

from tests.helpers.closeness import assert_close_to_truth


def test_accepts_what_is_as_good_as_plain_maths() -> None:
    truth = torch.randn(5, 7, dtype=torch.float64)
    assert_close_to_truth(truth.bfloat16(), truth, truth.bfloat16())


def test_allows_one_rounding_where_plain_maths_is_exact() -> None:
    truth = torch.tensor([1.0, 2.0], dtype=torch.float64)
    got = torch.tensor([1.0 + 2**-24, 2.0], dtype=torch.float32)
    assert_close_to_truth(got, truth, truth.float())


def test_names_the_worst_index_and_the_values() -> None:
    truth = torch.zeros(2, 3, dtype=torch.float64)
    got = truth.float().clone()
    got[1, 2] = 0.5
    with pytest.raises(AssertionError, match=r"at \(1, 2\).*got 0\.5, truth 0\.0"):
        assert_close_to_truth(got, truth, truth.float())


def test_not_a_number_is_never_close() -> None:
    truth = torch.ones(3, dtype=torch.float64)
    with pytest.raises(AssertionError, match="got nan"):
        assert_close_to_truth(torch.tensor([1.0, float("nan"), 1.0]), truth, truth.float())


def test_equal_infinities_are_close() -> None:
    truth = torch.tensor([float("-inf"), 1.0], dtype=torch.float64)
    assert_close_to_truth(truth.float(), truth, truth.float())


def test_the_truth_must_be_float64() -> None:
    with pytest.raises(AssertionError, match="must be float64"):
        assert_close_to_truth(torch.ones(1), torch.ones(1), torch.ones(1))
