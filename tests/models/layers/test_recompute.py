"""Recompute gives the same numbers for less memory, and only where there will be a backward."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from dist_rec.data.lengths import Lengths
from dist_rec.models.hyformer.sequence_encoder import Encoded
from dist_rec.models.layers import recompute
from dist_rec.models.layers.recompute import run
from tests.models.batches import saved_bytes


class _Counted(nn.Module):
    """A function with activations, that counts how often it ran."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mlp = nn.Sequential(nn.Linear(4, 32), nn.GELU(), nn.Dropout(0.5), nn.Linear(32, 4)).double()
        self.calls = 0

    def forward(self, x: Tensor, factor: float = 1.0) -> Tensor:
        self.calls += 1
        return self.mlp(x) * factor


def _x() -> Tensor:
    return torch.ones(6, 4, dtype=torch.float64, requires_grad=True)


def test_outputs_and_gradients_are_the_same_bit_for_bit() -> None:
    """Dropout included: the second time draws what the first drew."""
    results = []
    for again in (False, True):
        function, x = _Counted(), _x()
        torch.manual_seed(1)
        out = run(function, x, 3.0, again=again)
        results.append([out, *torch.autograd.grad(out.square().sum(), [x, *function.parameters()])])
        assert function.calls == 1 + again
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*results))


def test_it_keeps_its_inputs_only() -> None:
    function, x = _Counted(), _x()
    kept = {again: saved_bytes(lambda again=again: run(function, x, again=again)) for again in (False, True)}
    assert kept[True] <= x.nbytes < kept[False]


def test_without_gradients_it_is_a_plain_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recompute, "checkpoint", lambda *_, **__: pytest.fail("there is nothing to recompute for"))
    function, x = _Counted(), _x()
    with torch.no_grad():
        out = run(function, x, again=True)
    assert function.calls == 1 and not out.requires_grad


def test_a_dataclass_goes_in_and_comes_out() -> None:
    weight = torch.full((4,), 2.0, dtype=torch.float64, requires_grad=True)
    events = Encoded.of(_x(), Lengths.of([4, 2]))

    def double(events: Encoded) -> Encoded:
        return replace(events, rows=(events.rows * weight).exp())

    first, second = (run(double, events, again=again) for again in (False, True))
    assert isinstance(second, Encoded) and torch.equal(first.rows, second.rows) and second.lengths is events.lengths
    gradients = [torch.autograd.grad(out.rows.sum(), [weight, events.rows]) for out in (first, second)]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(*gradients))
