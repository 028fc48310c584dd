import pytest
import torch
import torch.distributed as dist

from tests.helpers.poison import filled_memory, is_active
from tests.helpers.ranks import run_ranks


def test_every_test_gets_filled_memory() -> None:
    like = torch.zeros(2, 3)
    for found in (
        torch.empty(2, 3),
        torch.empty_like(like),
        torch.empty_strided((2, 3), (3, 1)),
        like.new_empty(2, 3),
        like.new_empty_strided((2, 3), (3, 1)),
        torch.empty(2, 3, requires_grad=True),
        torch.empty(2, dtype=torch.bfloat16),
    ):
        assert found.isnan().all() and found._version == 0


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32, torch.int64])
def test_integers_are_the_largest(dtype: torch.dtype) -> None:
    assert torch.empty(3, dtype=dtype).tolist() == [torch.iinfo(dtype).max] * 3


def test_what_holds_no_memory_stays_as_it_is() -> None:
    assert torch.empty(3, device="meta").is_meta
    assert torch.empty((0,)).numel() == 0
    assert torch.empty(2, 2, layout=torch.sparse_coo).is_sparse


@pytest.mark.unfilled("the premise of this test")
def test_memory_is_as_it_is_outside() -> None:
    empty, new_empty = torch.empty, torch.Tensor.new_empty
    assert not is_active()
    with filled_memory():
        assert is_active() and torch.empty(1).isnan().all()
    assert not is_active() and torch.empty is empty and torch.Tensor.new_empty is new_empty
    assert "new_empty" not in vars(torch.Tensor)


def _is_filled() -> bool:
    return is_active() and bool(torch.empty(dist.get_world_size()).isnan().all())


def test_ranks_get_it_too() -> None:
    assert run_ranks(_is_filled, 2) == [True, True]


@pytest.mark.unfilled("the premise of this test")
def test_ranks_of_a_test_without_it_have_none() -> None:
    assert run_ranks(_is_filled, 1) == [False]
