import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.ladder.padding import Padding


@given(st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_events_end_at_the_last_column(lengths: list[int]) -> None:
    total, longest = sum(lengths), max(1, *lengths)
    padding = Padding(torch.tensor(lengths), longest, total)
    rows = torch.arange(1.0, total + 1)[:, None]
    expected, parts = torch.zeros(len(lengths), longest, 1), rows.split(lengths)
    for into, part in zip(expected, parts):
        into[longest - len(part) :] = part
    assert torch.equal(padding.pad(rows), expected)
    assert torch.equal(padding.real, expected[..., 0] > 0)
    assert padding.request.tolist() == [number for number, length in enumerate(lengths) for _ in range(length)]


def test_the_gradient_comes_back_to_the_events() -> None:
    rows = torch.randn(3, 2, requires_grad=True)
    padded = Padding(torch.tensor([1, 0, 2]), 4, 3).pad(rows)
    weight = torch.arange(padded.numel(), dtype=torch.float32).view_as(padded)
    (padded * weight).sum().backward()
    assert torch.equal(rows.grad, torch.stack([weight[0, 3], weight[2, 2], weight[2, 3]]))
