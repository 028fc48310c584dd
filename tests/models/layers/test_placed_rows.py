import pytest
import torch

from dist_rec.models.layers.placed_rows import Placing, picked_rows, placed_rows, placed_twice

PLACES = [torch.tensor([4, 0, 2]), torch.tensor([], dtype=torch.int64), torch.tensor([3, 1])]


@pytest.mark.parametrize("padded", [False, True])
def test_every_row_is_at_its_place(padded: bool) -> None:
    parts = [torch.randn(len(place), 3, dtype=torch.float64) for place in PLACES]
    out = placed_rows(list(zip(parts, PLACES)), 7 if padded else 5, padded=padded)
    for part, place in zip(parts, PLACES):
        assert torch.equal(out[place], part)
    assert not padded or not out[5:].any()


@pytest.mark.parametrize("padded", [False, True])
def test_gradients_are_those_of_autograd(padded: bool) -> None:
    parts = [torch.randn(len(place), 3, dtype=torch.float64, requires_grad=True) for place in PLACES]

    def place(*parts: torch.Tensor) -> torch.Tensor:
        return placed_rows(list(zip(parts, PLACES)), 7 if padded else 5, padded=padded)

    assert torch.autograd.gradcheck(place, parts)
    (alone,) = torch.autograd.grad(place(parts[0], parts[1].detach(), parts[2].detach()).sum(), parts[:1])
    assert torch.equal(alone, torch.ones(3, 3, dtype=torch.float64))


def test_the_first_part_has_the_dtype_of_all_and_numbers_are_rows_too() -> None:
    half, full = torch.ones(1, 2, dtype=torch.bfloat16), torch.ones(1, 2, requires_grad=True)
    out = placed_rows([(half, torch.tensor([0])), (full, torch.tensor([1]))], 2)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert full.grad is not None and full.grad.dtype == torch.float32
    numbers = placed_rows([(torch.tensor([[7]]), torch.tensor([1])), (torch.tensor([[5]]), torch.tensor([0]))], 2)
    assert numbers.tolist() == [[5], [7]]


def test_picking_is_the_inverse_of_placing() -> None:
    rows = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    places = torch.tensor([5, 0, 3])
    out = picked_rows(rows, places)
    assert torch.equal(out, rows[places])
    assert torch.autograd.gradcheck(lambda x: picked_rows(x, places), (rows,))
    (grad,) = torch.autograd.grad(out.sum(), rows)
    assert grad[:, 0].tolist() == [1, 0, 0, 1, 0, 1]


def test_placed_twice() -> None:
    """All rows of two parts in one tensor, two of the first and all of the second in another."""
    first, second = (torch.randn(n, 3, dtype=torch.float64, requires_grad=True) for n in (4, 2))
    placings = [
        Placing(torch.tensor([5, 0, 2, 1]), torch.tensor([3, 0]), torch.tensor([0, 3])),
        Placing(torch.tensor([3, 4]), None, torch.tensor([2, 1])),
    ]
    everything, picked = placed_twice([first, second], placings, (6, 4))
    assert torch.equal(everything, torch.stack([first[1], first[3], first[2], second[0], second[1], first[0]]))
    assert torch.equal(picked, torch.stack([first[3], second[1], second[0], first[0]]))
    assert torch.autograd.gradcheck(lambda *parts: placed_twice(parts, placings, (6, 4)), (first, second))


def test_placed_twice_leaves_gradients_that_others_use() -> None:
    first = torch.zeros(2, 1, requires_grad=True)
    placings = [Placing(torch.tensor([0, 1]), torch.tensor([1]), torch.tensor([0]))]
    everything, picked = placed_twice([first], placings, (2, 1))
    seen: list[torch.Tensor] = []
    everything.register_hook(seen.append)
    (2 * everything.sum() + picked.sum()).backward()
    assert first.grad is not None and first.grad.tolist() == [[2.0], [3.0]] and seen[0].tolist() == [[2.0], [2.0]]


def test_placed_twice_with_one_use() -> None:
    first = torch.zeros(2, 1, requires_grad=True)
    placings = [Placing(torch.tensor([0, 1]), torch.tensor([1]), torch.tensor([0]))]
    for number, expected in ((0, [[1.0], [1.0]]), (1, [[0.0], [1.0]])):
        (grad,) = torch.autograd.grad(placed_twice([first], placings, (2, 1))[number].sum(), first)
        assert grad.tolist() == expected
