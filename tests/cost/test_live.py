"""The fullest moment of a few operators, by hand."""

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dist_rec.cost.live import GRAIN, LiveBytes

N = 1024
SIZE = 4 * N  # bytes, a multiple of GRAIN


def test_what_is_let_go_counts_no_more() -> None:
    assert SIZE % GRAIN == 0
    with LiveBytes() as live:
        for _ in range(5):
            x = torch.ones(N)
            y = x + 1  # with the new x there is the y of before
            del x
        del y
    assert live.peak() == 3 * SIZE


def test_views_and_what_was_there_before_are_free() -> None:
    before = torch.ones(N)
    with LiveBytes() as live:
        seen = [before.view(2, -1), before[:5], before.add_(1)]
    assert live.peak() == 0 and len(seen) == 3


def test_what_autograd_keeps_counts() -> None:
    x = torch.ones(N, requires_grad=True)
    with LiveBytes() as live:
        kept = x.exp().exp().exp()
        forward = live.peak()
        kept.sum().backward()
    assert forward == 3 * SIZE
    assert live.at_peak([x.grad]) in (0, SIZE) and live.peak() > forward  # pyright: ignore[reportArgumentType]


def test_tensors_without_values_are_as_large() -> None:
    with FakeTensorMode(), LiveBytes() as live:
        large = torch.empty(10**9, dtype=torch.float32) + 1
    assert large.shape == (10**9,) and live.peak() >= 2 * 4 * 10**9


def test_it_goes_on_where_it_was_left() -> None:
    live = LiveBytes()
    with live:
        x = torch.ones(N)
    outside = torch.ones(10 * N)
    with live:
        y = torch.ones(N)
    assert live.peak() == 2 * SIZE and live.at_peak([x, y, outside]) == 2 * SIZE


def test_a_kernel_that_torch_does_not_see_tells_what_it_writes() -> None:
    live, out = LiveBytes(), torch.ones(N)
    live.hear("gelu", [torch.ones(N), out], 0)
    assert live.peak() == SIZE
