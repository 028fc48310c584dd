import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu

from dist_rec.data.lengths import Lengths
from dist_rec.models.baselines.config import DinConfig, SumPoolingConfig
from dist_rec.models.baselines.model import Din, SumPooling
from dist_rec.models.layers.jagged import CandidateView
from tests.models.batches import make_inputs, make_view, model_config

WIDTH = 8


def _din() -> Din:
    torch.manual_seed(0)
    return Din(DinConfig(hidden=5), make_inputs(model_config())).double()


def _loop(din: Din, tokens: Tensor, lengths: list[int], view: CandidateView) -> Tensor:
    """`sum_i a(x_i, v) x_i`, one event at a time, the unit over [x ; v ; x * v] as one matrix."""
    first = torch.cat([din.event_part.weight, din.candidate_part.weight, din.product_part.weight], dim=1)
    out = []
    for c, b in enumerate(view.request.tolist()):
        v = din.candidate(view.features[c])
        total = torch.zeros(WIDTH, dtype=tokens.dtype)
        for i in range(lengths[b] if view.prefix_len is None else int(view.prefix_len.host[c])):
            x = tokens[sum(lengths[:b]) + i]
            total = total + din.weigh[1](gelu(first @ torch.cat([x, v, x * v]) + din.candidate_part.bias)) * x
        out.append(total)
    return torch.stack(out)


@pytest.mark.parametrize("seen", [None, [0, 4, 2, 0, 3]])
def test_equals_a_loop(seen: list[int] | None) -> None:
    din, lengths = _din(), [4, 0, 3]
    tokens = torch.randn(7, WIDTH, dtype=torch.float64, requires_grad=True)
    view = make_view([3, 1, 1], seen)
    got = din(tokens, Lengths.of(lengths), view)
    expected = _loop(din, tokens, lengths, view)
    torch.testing.assert_close(got, expected, rtol=0.0, atol=1e-13)
    inputs = [tokens, *din.parameters()]
    for mine, theirs in zip(*(torch.autograd.grad(out.square().sum(), inputs) for out in (got, expected))):
        torch.testing.assert_close(mine, theirs, rtol=0.0, atol=1e-12)


def test_without_events_or_candidates() -> None:
    din = _din()
    nothing = torch.zeros(0, WIDTH, dtype=torch.float64)
    assert not din(nothing, Lengths.of([0, 0]), make_view([1, 2])).any()
    out = din(nothing, Lengths.of([]), make_view([]))
    gradients = torch.autograd.grad(out.sum(), list(din.parameters()))
    assert out.shape == (0, WIDTH) and not any(gradient.any() for gradient in gradients)


def test_pooling_averages_and_ignores_order() -> None:
    tokens, lengths = torch.randn(5, 4, dtype=torch.float64), Lengths.of([3, 2])
    pool = SumPooling(SumPoolingConfig(), make_inputs(model_config(tokens={"width": 4})))
    view = make_view([1, 2])
    out = pool(tokens, lengths, view)
    assert pool.width == 4 and out.shape == (3, 4)
    torch.testing.assert_close(out[0], tokens[:3].mean(0), rtol=0.0, atol=1e-15)
    torch.testing.assert_close(pool(tokens[[2, 0, 1, 4, 3]], lengths, view), out, rtol=0.0, atol=1e-15)
