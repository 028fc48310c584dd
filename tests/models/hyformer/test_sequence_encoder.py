"""HyFormer's encoders of one sequence: which states an event reaches, which events remain."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, silu

from dist_rec.data.lengths import Lengths
from dist_rec.models.hyformer.config import HyFormerConfig, HyFormerSequence
from dist_rec.models.hyformer.sequence_encoder import AttentionEncoder, Encoded, SwigluEncoder, make_encoder
from dist_rec.models.layers import attention_block

WIDTH, LENGTHS = 8, [6, 0, 1, 4]
FULL: dict[str, Any] = {"encoder": "full"}


def _encoder(sequence: dict[str, Any], **changes: Any) -> AttentionEncoder | SwigluEncoder:
    torch.manual_seed(0)
    config = HyFormerConfig(heads=2, ffn_expansion=2, **changes)
    encoder = make_encoder(config, HyFormerSequence.model_validate(sequence), WIDTH).double()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.5)
    return encoder


def _events(lengths: list[int] = LENGTHS, seed: int = 0) -> Encoded:
    rows = torch.randn(sum(lengths), WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Encoded.of(rows, Lengths.of(lengths))


def _with_row(events: Encoded, place: int) -> Encoded:
    other = events.rows.clone()
    other[place] = _events(seed=1).rows[place]
    return replace(events, rows=other)


def _reached(encoder: nn.Module, place: int) -> list[int]:
    """Rows that move, by a bit or more, when one event becomes another."""
    before, after = encoder(_events()).rows, encoder(_with_row(_events(), place)).rows
    return torch.nonzero((before != after).any(1))[:, 0].tolist()


@pytest.mark.parametrize("rotary", [False, True])
def test_a_later_event_never_changes_an_earlier_state_if_causal(rotary: bool) -> None:
    encoder = _encoder({**FULL, "causal": True}, rotary=rotary)
    first, last = range(6), range(7, 11)
    assert [_reached(encoder, place) for place in first] == [list(range(place, 6)) for place in first]
    assert [_reached(encoder, place) for place in last] == [list(range(place, 11)) for place in last]


@pytest.mark.parametrize("rotary", [False, True])
def test_without_causal_every_event_changes_all_states_of_its_request(rotary: bool) -> None:
    encoder = _encoder(FULL, rotary=rotary)
    requests = [range(6)] * 6 + [range(6, 7)] + [range(7, 11)] * 4
    assert [_reached(encoder, place) for place in range(11)] == [list(own) for own in requests]


def test_events_are_numbered_from_the_oldest() -> None:
    assert _events().position.tolist() == [0, 1, 2, 3, 4, 5, 0, 0, 1, 2, 3]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("recent", [1, 3, 5])
def test_longer_keeps_the_newest_states_of_the_full_encoder(causal: bool, rotary: bool, recent: int) -> None:
    full, longer = (
        _encoder({"encoder": kind, "recent": recent, "causal": causal}, rotary=rotary) for kind in ("full", "longer")
    )
    everything, newest = full(_events()), longer(_events())
    kept = [i for start, n in zip((0, 6, 6, 7), LENGTHS) for i in range(start + max(n - recent, 0), start + n)]
    assert newest.lengths.tensor.dtype == torch.int32 and newest.lengths.host.tolist() == [
        min(n, recent) for n in LENGTHS
    ]
    assert torch.equal(newest.position, _events().position[kept])
    torch.testing.assert_close(newest.rows, everything.rows[kept], rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_a_second_longer_layer_is_a_full_layer_over_what_was_kept(causal: bool) -> None:
    """It keeps all of it, with the positions it had; rotated by them, only distances count."""
    full, longer = (
        _encoder({"encoder": kind, "recent": 3, "causal": causal}, rotary=True) for kind in ("full", "longer")
    )
    kept = longer(_events())
    again = longer(kept)
    assert torch.equal(again.position, kept.position) and torch.equal(again.lengths.tensor, kept.lengths.tensor)
    alone = full(Encoded.of(kept.rows, kept.lengths))
    torch.testing.assert_close(again.rows, alone.rows, rtol=0.0, atol=1e-6)  # angles are fp32


def test_longer_has_no_more_query_rows_than_it_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    promised: list[int | None] = []
    attention = attention_block.cross_causal_attention
    monkeypatch.setattr(
        attention_block, "cross_causal_attention", lambda *a, **k: promised.append(k["max_q_len"]) or attention(*a, **k)
    )
    for sequence in ({"encoder": "longer", "recent": 3}, FULL):
        _encoder(sequence)(_events())
    assert promised == [3, None]


def test_swiglu_is_its_formula() -> None:
    encoder, events = _encoder({"encoder": "swiglu"}), _events()
    assert isinstance(encoder, SwigluEncoder)
    x = layer_norm(events.rows, (WIDTH,), encoder.norm.weight, encoder.norm.bias)

    def linear(layer: nn.Linear, x: Tensor) -> Tensor:
        return x @ layer.weight.T + layer.bias

    expected = events.rows + linear(encoder.down, silu(linear(encoder.gate, x)) * linear(encoder.up, x))
    got = encoder(events)
    torch.testing.assert_close(got.rows, expected, rtol=0.0, atol=1e-12)
    assert got.lengths is events.lengths and got.position is events.position


def test_events_do_not_see_one_another_in_swiglu() -> None:
    encoder = _encoder({"encoder": "swiglu"})
    assert [_reached(encoder, place) for place in range(11)] == [[place] for place in range(11)]


@pytest.mark.parametrize(("width", "expansion"), [(4, 1), (8, 4), (12, 3)])
def test_swiglu_has_as_many_parameters_as_it_says(width: int, expansion: int) -> None:
    count = sum(p.numel() for p in SwigluEncoder(width, expansion, 0.0).parameters())
    assert count == 3 * expansion * width**2 + (2 * expansion + 3) * width


@pytest.mark.parametrize("kind", ["full", "longer", "swiglu"])
@pytest.mark.parametrize("lengths", [[], [0, 0]])
def test_no_events_leave_zero_gradients(kind: str, lengths: list[int]) -> None:
    encoder = _encoder({"encoder": kind})
    out = encoder(_events(lengths)).rows
    assert out.shape == (0, WIDTH)
    assert not any(gradient.any() for gradient in torch.autograd.grad(out.sum(), list(encoder.parameters())))
