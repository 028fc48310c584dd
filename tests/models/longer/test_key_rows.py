"""Where globals and feedback stand among the keys, against a loop over requests and candidates."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rec.data.lengths import Lengths
from dist_rec.models.layers.jagged import CandidateView, GroupLayout, Twins
from dist_rec.models.longer.key_rows import KeyRows
from tests.models.batches import make_view

# Of every request: its events, and of every candidate whether it is a twin. Twins may stand anywhere.
REQUESTS = st.lists(st.tuples(st.integers(0, 4), st.lists(st.booleans(), max_size=4)), min_size=1, max_size=4)
Requests = list[tuple[int, list[bool]]]


def _view(requests: Requests, n: int) -> CandidateView:
    flags = [twin for _, of in requests for twin in of]
    place = torch.tensor([i for i, twin in enumerate(flags) if twin], dtype=torch.int64)
    tokens = -1.0 - torch.arange(len(place) * n * 2, dtype=torch.float64).view(len(place), n, 2)
    twins = Twins(place, Lengths.of([sum(of) for _, of in requests]), tokens.requires_grad_())
    view = make_view([len(of) for _, of in requests])
    return CandidateView(view.features, view.context, view.counts, None, twins=twins)


def _expected(requests: Requests, m: int, n: int) -> list[tuple[str, int] | None]:
    """What stands in every row: the kind of row, and its number among those of its kind."""
    rows: list[tuple[str, int] | None] = []
    events, groups, feedback = 0, 0, 0
    for count, flags in requests:
        rows += [("event", events + i) for i in range(count)]
        events += count
        for twin in flags:
            own: list[tuple[str, int] | None] = [("global", groups + i) for i in range(m)]
            groups += m
            rows += [("feedback", feedback + i) for i in range(n)] + own if twin else own + [None] * n
            feedback += n * twin
    return rows


@given(requests=REQUESTS, m=st.integers(1, 3), n=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_places_are_those_of_a_loop(requests: Requests, m: int, n: int) -> None:
    view, events = _view(requests, n), Lengths.of([count for count, _ in requests])
    keys, expected = KeyRows.of(events, view, m), _expected(requests, m, n)
    assert keys.group_size == m + n and keys.feedback_index is not None
    found: list[tuple[str, int] | None] = [None] * len(expected)
    parts = {"event": keys.layout.event_index, "global": keys.group_index, "feedback": keys.feedback_index}
    places = [place for index in parts.values() for place in index.tolist()]
    assert len(set(places)) == len(places), "no two rows share a place"
    for kind, index in parts.items():
        for number, place in enumerate(index.tolist()):
            found[place] = (kind, number)
    assert found == expected and keys.layout.lengths.total == len(expected)
    sizes = [count + (m + n) * len(flags) for count, flags in requests]
    assert keys.layout.lengths.host.tolist() == keys.layout.lengths.tensor.tolist() == sizes
    starts = [sum(sizes[:b]) for b in range(len(sizes))]
    request = [b for b, (_, flags) in enumerate(requests) for _ in range(m * len(flags))]
    assert keys.request.tolist() == request
    assert keys.group_position.tolist() == [p - starts[b] for p, b in zip(keys.group_index.tolist(), request)]


@given(requests=REQUESTS, m=st.integers(1, 3), n=st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_rows_are_joined_and_where_nothing_is_they_are_zero(requests: Requests, m: int, n: int) -> None:
    view = _view(requests, n)
    assert view.twins is not None
    counts = [count for count, _ in requests]
    events = 1.0 + torch.arange(2 * sum(counts), dtype=torch.float64).view(-1, 2)
    groups = 1e3 + torch.arange(2 * m * view.counts.total, dtype=torch.float64).view(-1, 2)
    parts = {"event": events.requires_grad_(), "global": groups.requires_grad_(), "feedback": view.twins.rows}
    joined = KeyRows.of(Lengths.of(counts), view, m).join(events, groups, view.twins)
    zero = torch.zeros(2, dtype=torch.float64)
    expected = [zero if of is None else parts[of[0]][of[1]] for of in _expected(requests, m, n)]
    torch.testing.assert_close(joined, torch.stack(expected) if expected else joined, rtol=0, atol=0)
    leaves = (events, groups, view.twins.tokens)
    gradients = torch.autograd.grad((joined * joined.detach()).sum(), leaves)
    assert all(torch.equal(gradient, leaf) for gradient, leaf in zip(gradients, leaves, strict=True))


def test_without_twins_groups_are_the_globals_alone() -> None:
    events, view = Lengths.of([2, 0, 3]), make_view([1, 2, 0])
    keys, layout = KeyRows.of(events, view, 2), GroupLayout.of(events, view.counts, 2)
    assert keys.group_size == 2 and keys.feedback_index is None
    assert torch.equal(keys.group_index, layout.group_index)
    assert keys.group_position.tolist() == [2, 3, 0, 1, 2, 3]
    rows, groups = torch.randn(5, 3), torch.randn(6, 3)
    assert torch.equal(keys.join(rows, groups, None), layout.join(rows, groups))
