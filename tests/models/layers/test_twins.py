"""Candidates and their twins in one view, against a loop over requests."""

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rec.data.batch import Feedback
from dist_rec.data.lengths import Lengths
from dist_rec.models.layers.jagged import CandidateView
from dist_rec.models.layers.twins import twins_alone, with_twins
from tests.models.batches import make_view

# Of every request, of every candidate: whether it has a twin, and how many events and places it sees.
REQUESTS = st.lists(
    st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 3)), max_size=4), min_size=1, max_size=5
)
Requests = list[list[tuple[bool, int, int]]]
PREFIX = st.sampled_from(("none", "events", "places"))
WIDTH, N = 3, 2


def _inputs(requests: Requests, prefix: str) -> tuple[CandidateView, Feedback, torch.Tensor]:
    """`prefix`: whether candidates see their own number of events, and of places besides."""
    flat = [of for own in requests for of in own]
    view = make_view([len(own) for own in requests])
    events, places = [seen for _, seen, _ in flat], [seen + empty for _, seen, empty in flat]
    view = replace(
        view,
        prefix_len=None if prefix == "none" else Lengths.of(events),
        prefix_slots=Lengths.of(places) if prefix == "places" else None,
    )
    twin = torch.tensor([i for i, (has, _, _) in enumerate(flat) if has], dtype=torch.int64)
    feedback = Feedback(
        lengths=Lengths.of([1] * len(twin)),
        inverse=None,
        side={},
        age=None,
        twins=Lengths.of([sum(has for has, _, _ in own) for own in requests]),
        twin=twin,
        twin_host=twin.numpy().astype(np.int32),
        distilled=torch.ones(len(twin), 1, dtype=torch.bool),
    )
    return view, feedback, torch.randn(len(twin), N, WIDTH)


def _order(requests: Requests) -> list[tuple[int, bool]]:
    """The candidate of every row of the view, and whether it is a twin: those of a request after its candidates."""
    rows, first = [], 0
    for own in requests:
        numbers = range(first, first + len(own))
        rows += [(i, False) for i in numbers] + [(i, True) for i, (has, _, _) in zip(numbers, own) if has]
        first += len(own)
    return rows


def _assert_agree(lengths: Lengths, expected: list[int]) -> None:
    assert lengths.tensor.tolist() == lengths.host.tolist() == expected
    assert lengths.tensor.dtype == torch.int32


def _assert_prefixes(view: CandidateView, found: CandidateView, candidates: list[int]) -> None:
    """Each of the rows sees what its candidate sees."""
    for name in ("prefix_len", "prefix_slots"):
        before, after = getattr(view, name), getattr(found, name)
        assert (before is None) == (after is None)
        if before is not None:
            _assert_agree(after, [before.host.tolist()[i] for i in candidates])


@given(requests=REQUESTS, prefix=PREFIX)
@settings(max_examples=80, deadline=None)
def test_twins_stand_after_the_candidates_of_their_request(requests: Requests, prefix: str) -> None:
    view, feedback, tokens = _inputs(requests, prefix)
    both, layout = with_twins(view, feedback, tokens)
    order = _order(requests)
    candidates = [i for i, _ in order]
    assert torch.equal(both.features, view.features[candidates])
    assert both.context is view.context
    _assert_agree(both.counts, [len(own) + sum(has for has, _, _ in own) for own in requests])
    _assert_prefixes(view, both, candidates)
    places = [place for place, (_, twin) in enumerate(order) if twin]
    assert both.twins is not None and both.twins.place.tolist() == layout.twins.tolist() == places
    assert both.twins.tokens is tokens and both.twins.per_twin == N
    _assert_agree(both.twins.counts, feedback.twins.host.tolist())
    assert layout.candidates.tolist() == [place for place, (_, twin) in enumerate(order) if not twin]


@given(requests=REQUESTS)
@settings(max_examples=40, deadline=None)
def test_apart_undoes_it(requests: Requests) -> None:
    view, feedback, tokens = _inputs(requests, "none")
    leaf = view.features.clone().requires_grad_()
    both, layout = with_twins(replace(view, features=leaf), feedback, tokens)
    apart = layout.apart(both.features)
    assert torch.equal(apart, torch.cat([view.features, view.features[feedback.twin]]))
    weights = torch.arange(1.0, 1.0 + apart.numel(), dtype=apart.dtype).view_as(apart)
    (gradient,) = torch.autograd.grad((apart * weights).sum(), leaf)
    of_candidates, of_twins = weights.split([len(leaf), len(feedback.twin)])
    torch.testing.assert_close(gradient, of_candidates.index_add(0, feedback.twin, of_twins))


@given(requests=REQUESTS, prefix=PREFIX)
@settings(max_examples=40, deadline=None)
def test_twins_alone(requests: Requests, prefix: str) -> None:
    view, feedback, tokens = _inputs(requests, prefix)
    alone = twins_alone(view, feedback, tokens)
    assert torch.equal(alone.features, view.features[feedback.twin])
    _assert_agree(alone.counts, feedback.twins.host.tolist())
    _assert_prefixes(view, alone, feedback.twin.tolist())
    assert alone.twins is not None and alone.twins.place.tolist() == list(range(len(feedback.twin)))
    assert alone.twins.tokens is tokens and torch.equal(alone.twins.rows, tokens.flatten(0, 1))
