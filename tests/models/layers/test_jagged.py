import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rec.data.lengths import Lengths, Slots
from dist_rec.models.layers.jagged import (
    GroupLayout,
    join_sequences,
    newest,
    visible_mean,
)
from tests.models.batches import make_view

LENGTHS = st.lists(st.integers(0, 6), max_size=6)


@given(lengths=LENGTHS, count=st.integers(1, 7))
@settings(max_examples=50, deadline=None)
def test_newest_are_the_last_rows_of_every_request(lengths: list[int], count: int) -> None:
    rows = [(b, i) for b, n in enumerate(lengths) for i in range(n)]
    expected = [row for b in range(len(lengths)) for row in [row for row in rows if row[0] == b][-count:]]
    index, kept = newest(Lengths.of(lengths), count)
    assert [rows[i] for i in index.tolist()] == expected
    assert kept.tensor.dtype == torch.int32 and kept.host.tolist() == [min(n, count) for n in lengths]


@given(
    table=st.integers(0, 5).flatmap(
        lambda B: st.lists(st.lists(st.integers(0, 4), min_size=B, max_size=B), min_size=1, max_size=4)
    )
)
@settings(max_examples=50, deadline=None)
def test_joined_sequences_stand_one_after_the_other_in_every_request(table: list[list[int]]) -> None:
    """`table`: the lengths of every sequence, by request."""
    names = [[(s, b, i) for b, n in enumerate(own) for i in range(n)] for s, own in enumerate(table)]
    expected = [name for b in range(len(table[0])) for own in names for name in own if name[1] == b]
    parts = [torch.tensor(own, dtype=torch.float64).reshape(len(own), 3).requires_grad_() for own in names]
    joined, lengths = join_sequences(parts, [Lengths.of(own) for own in table])
    assert [tuple(int(x) for x in row) for row in joined.tolist()] == expected
    assert lengths.host.tolist() == [sum(own[b] for own in table) for b in range(len(table[0]))]
    gradients = torch.autograd.grad((joined * joined.detach()).sum(), parts)
    assert all(torch.equal(gradient, part) for gradient, part in zip(gradients, parts))


@given(
    table=st.integers(1, 4).flatmap(
        lambda B: st.lists(
            st.tuples(st.booleans(), st.lists(st.lists(st.booleans(), max_size=4), min_size=B, max_size=B)),
            min_size=1,
            max_size=4,
        )
    )
)
@settings(max_examples=50, deadline=None)
def test_joined_sequences_keep_their_empty_places(table: list[tuple[bool, list[list[bool]]]]) -> None:
    """`table`: of every sequence whether it may have empty places, and by request which places have a row."""
    lengths, expected = [], [[] for _ in table[0][1]]
    before = [0] * len(expected)
    for may, own in table:
        places = [list(of) if may else [True] * sum(of) for of in own]
        position = torch.tensor([i for of in places for i, there in enumerate(of) if there], dtype=torch.int32)
        plain, slots = Lengths.of([sum(of) for of in places]), None
        if may:
            slots = Slots(position, position.numpy(), Lengths.of([len(of) for of in places]))
        lengths.append(Lengths(plain.given, plain.host, slots=slots))
        for request, of in enumerate(places):
            expected[request] += [before[request] + i for i, there in enumerate(of) if there]
            before[request] += len(of)
    _, together = join_sequences([torch.zeros(of.total, 1) for of in lengths], lengths)
    flat = [place for of in expected for place in of]
    assert together.slot.tolist() == flat and together.places.tensor.tolist() == before
    if together.slots is not None:
        assert together.slots.host.tolist() == flat and together.places.host.tolist() == before


@given(pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), max_size=5), m=st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_layout_puts_every_requests_groups_after_its_events(pairs: list[tuple[int, int]], m: int) -> None:
    events = [f"event {b} {i}" for b, (n, _) in enumerate(pairs) for i in range(n)]
    groups = [f"group {b} {c} {i}" for b, (_, count) in enumerate(pairs) for c in range(count) for i in range(m)]
    expected = [name for b in range(len(pairs)) for name in [*events, *groups] if name.split()[1] == str(b)]
    lengths, counts = (Lengths.of([pair[i] for pair in pairs]) for i in (0, 1))
    layout = GroupLayout.of(lengths, counts, m)
    names = [*events, *groups]
    index = torch.arange(len(names), dtype=torch.float64)[:, None]
    joined = layout.join(index[: len(events)], index[len(events) :])
    assert [names[int(i)] for i in joined[:, 0]] == expected
    assert torch.equal(joined[layout.event_index], index[: len(events)])
    assert torch.equal(joined[layout.group_index], index[len(events) :])
    assert layout.lengths.host.tolist() == [n + c * m for n, c in pairs] and layout.lengths.total == len(names)


def test_events_that_each_candidate_sees() -> None:
    events = Lengths.of([4, 0, 3])
    everything, some = make_view([2, 0, 1]), make_view([2, 0, 1], prefix_len=[0, 3, 2])
    assert everything.request.tolist() == [0, 0, 2]
    for view, expected in ((everything, [4, 4, 3]), (some, [0, 3, 2])):
        visible = view.visible(events)
        assert visible.tensor.tolist() == visible.host.tolist() == expected


def test_mean_of_what_each_candidate_sees() -> None:
    values, lengths = torch.randn(7, 2, dtype=torch.float64), Lengths.of([4, 0, 3])
    everything = visible_mean(values, lengths, make_view([2, 1, 1]))
    expected = torch.stack([values[:4].mean(0), values[:4].mean(0), torch.zeros(2), values[4:].mean(0)])
    torch.testing.assert_close(everything, expected, rtol=0.0, atol=1e-15)
    some = visible_mean(values, lengths, make_view([2, 1, 1], prefix_len=[0, 3, 0, 2]))
    expected = torch.stack([torch.zeros(2).double(), values[:3].mean(0), torch.zeros(2).double(), values[4:6].mean(0)])
    torch.testing.assert_close(some, expected, rtol=0.0, atol=1e-15)


def test_mean_does_not_notice_what_comes_later() -> None:
    values, lengths = torch.randn(9, 2), Lengths.of([3, 6])
    later = values.clone()
    later[2], later[7:] = 1e6, -1e6
    view = make_view([1, 2], prefix_len=[2, 4, 0])
    assert torch.equal(visible_mean(values, lengths, view), visible_mean(later, lengths, view))


def test_mean_of_low_precision_rows_is_not_summed_in_low_precision() -> None:
    """10,000 ones: a bf16 sum stops growing at 256."""
    ones, lengths = torch.ones(10_000, 3, dtype=torch.bfloat16), Lengths.of([10_000])
    for view in (make_view([1]), make_view([1], prefix_len=[10_000])):
        assert visible_mean(ones, lengths, view).tolist() == [[1.0] * 3]


def test_mean_without_requests_stays_in_the_graph() -> None:
    values = torch.randn(0, 3, requires_grad=True)
    for view in (make_view([]), make_view([], prefix_len=[])):
        out = visible_mean(values, Lengths.of([]), view)
        assert out.shape == (0, 3) and out.requires_grad
