"""Pooled sequences against plain means of looked-up rows and embeddings, event by event."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dist_rec.data.batch import JaggedEvents
from dist_rec.data.lengths import Lengths
from dist_rec.models.config import TokenConfig
from dist_rec.models.layers.sequence_pool import SequencePool
from dist_rec.models.layers.tokens import EventTokens, time_bucket
from tests.models.batches import make_view

ROW_DIM, UNIQUE, WIDTH, BUCKETS = 6, 5, 4, 10
LENGTHS, COUNTS = [4, 0, 3, 1], [2, 1, 3, 0]
SEEN = [0, 3, 0, 3, 1, 2]


def _parts(times: bool = True, side: dict[str, int] | None = None) -> tuple[SequencePool, EventTokens, JaggedEvents]:
    torch.manual_seed(0)
    side = {"action": 4, "page": 300} if side is None else side
    config = TokenConfig(width=8, hidden=8, time_buckets=BUCKETS, time_dim=3, side_dim=2)
    tokens = EventTokens(config, ROW_DIM, side, has_time=times, dropout=0.0).double()
    total = sum(LENGTHS)
    events = JaggedEvents(
        lengths=Lengths.of(LENGTHS),
        inverse=torch.randint(0, UNIQUE, (total,), dtype=torch.int32),
        side={name: torch.randint(0, size, (total,), dtype=torch.int16) for name, size in side.items()},
        age=torch.randint(0, 100, (total,), dtype=torch.int32) if times else None,
    )
    return SequencePool(ROW_DIM, tokens, WIDTH).double(), tokens, events


def _rows() -> Tensor:
    return torch.randn(
        UNIQUE, ROW_DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True
    )


def _by_hand(
    pool: SequencePool, rows: Tensor, tokens: EventTokens, events: JaggedEvents, seen: list[int] | None
) -> Tensor:
    """One candidate and one event at a time."""
    assert isinstance(events.inverse, Tensor)
    requests = [b for b, count in enumerate(COUNTS) for _ in range(count)]
    out = []
    for c, b in enumerate(requests):
        start = sum(LENGTHS[:b])
        known = []
        for i in range(start, start + (LENGTHS[b] if seen is None else seen[c])):
            parts = [rows[events.inverse[i].long()]]
            if tokens.time is not None:
                assert events.age is not None
                parts.append(tokens.time.embedding.weight[time_bucket(events.age, BUCKETS)[i].long()])
            parts += [term.embedding.weight[events.side[name][i].long()] for name, term in tokens.dynamic.items()]
            known.append(torch.cat(parts))
        mean = torch.stack(known).mean(0) if known else torch.zeros(pool.project.in_features, dtype=torch.float64)
        out.append(pool.project.weight @ mean)
    return torch.stack(out)


CASES: list[dict[str, Any]] = [{}, {"times": False}, {"side": {}}, {"times": False, "side": {}}]


@pytest.mark.parametrize("seen", [None, SEEN], ids=["all", "seen"])
@pytest.mark.parametrize("case", CASES, ids=["times and fields", "fields", "times", "rows alone"])
def test_equals_the_plain_mean(case: dict[str, Any], seen: list[int] | None) -> None:
    """Outputs, and the gradients of rows, of the tokens' embeddings and of the projection."""
    pool, tokens, events = _parts(**case)
    rows = _rows()
    got = pool(rows, events, tokens, make_view(COUNTS, seen))
    truth = _by_hand(pool, rows, tokens, events, seen)
    torch.testing.assert_close(got, truth, rtol=0.0, atol=1e-12)
    terms = [*([] if tokens.time is None else [tokens.time]), *tokens.dynamic.values()]
    leaves = [rows, pool.project.weight, *(term.embedding.weight for term in terms)]
    weights = torch.randn_like(truth)
    mine, theirs = (torch.autograd.grad((out * weights).sum(), leaves) for out in (got, truth))
    for own, expected in zip(mine, theirs):
        assert expected.any()
        torch.testing.assert_close(own, expected, rtol=0.0, atol=1e-12)


def test_its_width_counts_every_embedding() -> None:
    assert [_parts(**case)[0].project.in_features for case in CASES] == [6 + 3 + 2 * 2, 6 + 2 * 2, 6 + 3, 6]


def test_no_events_give_exactly_zero() -> None:
    pool, tokens, events = _parts()
    everything = pool(_rows(), events, tokens, make_view(COUNTS))
    assert everything.any(1).tolist() == [True, True, False, True, True, True]
    some = pool(_rows(), events, tokens, make_view(COUNTS, SEEN))
    assert some.any(1).tolist() == [count > 0 for count in SEEN]


def test_candidates_of_a_request_share_the_pool() -> None:
    pool, tokens, events = _parts()
    out = pool(_rows(), events, tokens, make_view(COUNTS))
    assert torch.equal(out[0], out[1]) and torch.equal(out[3], out[4]) and torch.equal(out[3], out[5])
    assert not torch.isclose(out[0], out[3]).any()


def test_what_a_candidate_does_not_see_changes_nothing_bitwise() -> None:
    pool, tokens, events = _parts()
    view = make_view(COUNTS, SEEN)
    before = pool(_rows(), events, tokens, view)
    later = torch.tensor(
        [False, False, False, True, False, False, False, True]
    )  # the fourth event of the first request
    other = {name: torch.where(later, 3 - value.clamp(max=3), value) for name, value in events.side.items()}
    assert isinstance(events.inverse, Tensor)
    changed = JaggedEvents(events.lengths, torch.where(later, 4 - events.inverse, events.inverse), other, events.age)
    assert torch.equal(pool(_rows(), changed, tokens, view), before)
    assert not torch.equal(
        pool(_rows(), changed, tokens, make_view(COUNTS)), pool(_rows(), events, tokens, make_view(COUNTS))
    )


@pytest.mark.parametrize("seen", [None, []], ids=["all", "seen"])
def test_no_candidates_leave_zero_gradients(seen: list[int] | None) -> None:
    pool, tokens, _ = _parts(side={})
    nothing = torch.zeros(0, dtype=torch.int32)
    events = JaggedEvents(Lengths.of([]), nothing, {}, nothing)
    rows = _rows()[:0].detach().requires_grad_()
    out = pool(rows, events, tokens, make_view([], seen))
    assert out.shape == (0, WIDTH)
    assert tokens.time is not None
    leaves = [rows, pool.project.weight, tokens.time.embedding.weight]
    assert not any(gradient.any() for gradient in torch.autograd.grad(out.sum(), leaves))
