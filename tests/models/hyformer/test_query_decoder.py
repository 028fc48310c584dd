"""Query decoding: which events a candidate's queries see, and that they see nothing else."""

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_rec.data.lengths import Lengths
from dist_rec.kernels.cross_causal_attention import cross_causal_attention
from dist_rec.models.hyformer import query_decoder
from dist_rec.models.hyformer.query_decoder import QueryDecoder
from dist_rec.models.hyformer.sequence_encoder import Encoded
from dist_rec.models.layers.jagged import CandidateView
from tests.models.batches import make_view

WIDTH, QUERIES = 8, 2
LENGTHS, COUNTS = [5, 0, 3, 7], [3, 1, 0, 2]
SEEN = [0, 5, 2, 0, 7, 1]


def _decoder(rotary: bool = False) -> QueryDecoder:
    torch.manual_seed(0)
    decoder = QueryDecoder(WIDTH, heads=2, rotary=rotary, dropout=0.0).double()
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.5)
    return decoder


def _queries(count: int = sum(COUNTS), seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, QUERIES, WIDTH, generator=generator, dtype=torch.float64, requires_grad=True)


def _events() -> Encoded:
    rows = torch.randn(sum(LENGTHS), WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return Encoded.of(rows.requires_grad_(), Lengths.of(LENGTHS))


def _each_alone(events: Encoded, view: CandidateView) -> tuple[Encoded, CandidateView]:
    """Every candidate as a request of its own, its history cut to what it sees."""
    assert view.prefix_len is not None
    histories = events.rows.split(LENGTHS)
    rows = torch.cat([histories[b][:seen] for b, seen in zip(view.request.tolist(), view.prefix_len.host.tolist())])
    one_each = Lengths.of([1] * view.counts.total)
    return Encoded.of(rows, view.prefix_len), replace(view, counts=one_each, prefix_len=None)


@pytest.mark.parametrize("rotary", [False, True])
def test_seen_equals_a_history_cut_to_it(rotary: bool) -> None:
    """Outputs and every gradient."""
    decoder, queries, events, view = _decoder(rotary), _queries(), _events(), make_view(COUNTS, SEEN)
    together = decoder(queries, events, view)
    apart = decoder(queries, *_each_alone(events, view))
    torch.testing.assert_close(together, apart, rtol=0.0, atol=1e-12)
    weights = torch.randn_like(together)
    leaves = [queries, events.rows, *decoder.parameters()]
    mine, theirs = (torch.autograd.grad((out * weights).sum(), leaves) for out in (together, apart))
    for own, expected in zip(mine, theirs):
        torch.testing.assert_close(own, expected, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("rotary", [False, True])
def test_to_see_everything_is_to_have_no_limit(rotary: bool) -> None:
    decoder, queries, events = _decoder(rotary), _queries(), _events()
    limits = [LENGTHS[b] for b, count in enumerate(COUNTS) for _ in range(count)]
    limited, free = (decoder(queries, events, make_view(COUNTS, seen)) for seen in (limits, None))
    torch.testing.assert_close(limited, free, rtol=0.0, atol=1e-12)


def test_equals_softmax_over_the_events_written_out() -> None:
    decoder, queries, events, view = _decoder(), _queries(), _events(), make_view(COUNTS)
    norm = torch.nn.functional.layer_norm
    histories = norm(events.rows, (WIDTH,), decoder.norm_events.weight, decoder.norm_events.bias).split(LENGTHS)
    asked = decoder.query(norm(queries, (WIDTH,), decoder.norm_query.weight, decoder.norm_query.bias))
    expected = []
    for c, b in enumerate(view.request.tolist()):
        heads = []
        for columns in (slice(0, 4), slice(4, 8)):
            k, v = (layer(histories[b])[:, columns] for layer in (decoder.key, decoder.value))
            heads.append((asked[c][:, columns] @ k.T / 2).softmax(1) @ v)
        expected.append(queries[c] + torch.cat(heads, dim=1) @ decoder.project.weight.T)
    torch.testing.assert_close(decoder(queries, events, view), torch.stack(expected), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("seen", [None, [5, 5, 2, 0, 7, 1]], ids=["all", "seen"])
def test_queries_do_not_see_one_another(seen: list[int] | None) -> None:
    """Neither those of another candidate of the request nor the second of their own."""
    decoder, events, view = _decoder(rotary=True), _events(), make_view(COUNTS, seen)
    before = decoder(_queries(), events, view)
    for candidate in range(sum(COUNTS)):
        for query in range(QUERIES):
            other = _queries().detach().clone()
            other[candidate, query] = _queries(seed=1)[candidate, query]
            moved = (decoder(other, events, view) != before).any(2)
            assert torch.nonzero(moved).tolist() == [[candidate, query]]


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("seen", [None, SEEN], ids=["all", "seen"])
def test_queries_that_see_no_event_go_on_as_they_came(rotary: bool, seen: list[int] | None) -> None:
    queries = _queries()
    out = _decoder(rotary)(queries, _events(), make_view(COUNTS, seen))
    empty = torch.tensor([b == 1 if seen is None else SEEN[c] == 0 for c, b in enumerate([0, 0, 0, 1, 3, 3])])
    assert torch.equal(out[empty], queries[empty])
    assert not (out[~empty] == queries[~empty]).any()


def _asked(monkeypatch: pytest.MonkeyPatch, seen: list[int] | None) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    calls: list[tuple[tuple[Tensor, ...], dict[str, Any]]] = []
    attention = query_decoder.cross_causal_attention
    monkeypatch.setattr(
        query_decoder, "cross_causal_attention", lambda *a, **k: calls.append((a, k)) or attention(*a, **k)
    )
    _decoder()(_queries(), _events(), make_view(COUNTS, seen))
    assert len(calls) == 1
    return calls[0]


def test_without_limits_attention_needs_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    (_, _, _, q_offsets, kv_offsets), options = _asked(monkeypatch, None)
    assert q_offsets.tolist() == [0, 6, 8, 8, 12] and kv_offsets.tolist() == [0, 5, 5, 8, 15]
    mask = options["mask"]
    assert mask.causal is False and mask.tensors == (None,) * 4 and options["max_q_len"] == 6


def test_with_limits_queries_stand_at_the_last_event_they_see(monkeypatch: pytest.MonkeyPatch) -> None:
    _, options = _asked(monkeypatch, SEEN)
    mask = options["mask"]
    assert mask.causal is True and mask.num_candidates is None and mask.prefix_len is None
    assert mask.q_positions.tolist() == [seen - 1 for seen in SEEN for _ in range(QUERIES)]


@pytest.mark.parametrize("seen", [None, SEEN], ids=["all", "seen"])
def test_the_fused_kernel_gives_the_same(seen: list[int] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and every gradient in fp32, heads of 8; some candidates see nothing."""
    torch.manual_seed(0)
    decoder = QueryDecoder(16, heads=2, rotary=True, dropout=0.0)
    queries = torch.randn(sum(COUNTS), QUERIES, 16, requires_grad=True)
    rows = torch.randn(sum(LENGTHS), 16, requires_grad=True)
    events, results = Encoded.of(rows, Lengths.of(LENGTHS)), []
    weights = torch.randn(sum(COUNTS), QUERIES, 16)
    for backend in ("reference", "triton"):
        attention = partial(cross_causal_attention, backend=backend)
        monkeypatch.setattr(query_decoder, "cross_causal_attention", attention)
        out = decoder(queries, events, make_view(COUNTS, seen, dtype=torch.float32))
        results.append([out, *torch.autograd.grad((out * weights).sum(), [queries, rows, *decoder.parameters()])])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seen", [None, []], ids=["all", "seen"])
def test_no_candidates_leave_zero_gradients(seen: list[int] | None) -> None:
    decoder, queries = _decoder(rotary=True), _queries(0)
    out = decoder(queries, _events(), make_view([0] * 4, seen))
    assert out.shape == (0, QUERIES, WIDTH)
    assert not any(gradient.any() for gradient in torch.autograd.grad(out.sum(), [queries, *decoder.parameters()]))
