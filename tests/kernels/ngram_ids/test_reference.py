"""The definition against numbers by hand, and what changes when events change."""

from dataclasses import replace

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dist_rec.common.ngram import NgramSpec
from dist_rec.kernels.ngram_ids.reference import mix, row_of, tokens_of
from tests.kernels.ngram_ids.cases import HIDDEN, Case, cases

POLYNOMIAL = NgramSpec(orders=[2, 3], heads=1, rows=[29, 101], hash="polynomial", base=9)


def test_the_finalizer_is_that_of_splitmix64() -> None:
    """The first numbers of the published generator from seed 0."""
    golden = 0x9E3779B97F4A7C15
    assert [mix(golden * (i + 1) % 2**64) for i in range(3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


def test_the_polynomial_of_the_paper_by_hand() -> None:
    ids = Case([4, 2, 6], [0, 0, 0], [3], POLYNOMIAL, None).ids("reference")
    # Tokens are ids + 1, the newest has the weight 1; the table of order 3 begins at row 29.
    assert ids.tolist() == [
        [5 % 29, 29 + 5 % 101],
        [(3 + 5 * 9) % 29, 29 + (3 + 5 * 9) % 101],
        [(7 + 3 * 9) % 29, 29 + (7 + 3 * 9 + 5 * 81) % 101],
    ]


def test_no_event_is_no_id() -> None:
    """An event of id 0 before another is not the start of a sequence."""
    alone, after_zero = (Case(values, [0] * len(values), [len(values)], POLYNOMIAL, None) for values in ([5], [0, 5]))
    assert not torch.equal(alone.ids("reference")[-1], after_zero.ids("reference")[-1])


def test_looking_back_stops_at_hidden_events_and_pauses() -> None:
    values, times = [1, HIDDEN, 2, 3, 4], [0, 1, 2, 30, 31]

    def back(i: int, hidden: int | None, times: list[int] | None) -> list[int]:
        return tokens_of(values, i, 3, hidden, times, 10)

    assert [back(i, None, None) for i in range(3)] == [[2, 0, 0], [8, 2, 0], [3, 8, 2]]
    assert [back(i, HIDDEN, None) for i in range(4)] == [[2, 0, 0], [8, 0, 0], [3, 0, 0], [4, 3, 0]]
    assert [back(i, HIDDEN, times) for i in (3, 4)] == [[4, 0, 0], [5, 4, 0]]


@given(cases())
@settings(max_examples=100, deadline=None)
def test_ids_lie_in_the_rows_of_their_head(case: Case) -> None:
    ids = case.ids("reference")
    first = torch.tensor(case.spec.first_rows)
    assert bool(((ids >= first) & (ids < first + torch.tensor(case.spec.table_rows))).all())


@given(cases(), st.data())
@settings(max_examples=100, deadline=None)
def test_another_event_changes_ids_of_its_sequence_from_it_on(case: Case, data: st.DataObject) -> None:
    assume(case.values)
    at = data.draw(st.integers(0, len(case.values) - 1))
    changed = replace(case, values=[*case.values[:at], data.draw(st.integers(0, 50)), *case.values[at + 1 :]])
    ends = torch.tensor(case.lengths).cumsum(0)
    end = int(ends[(ends > at).nonzero()[0]])
    before, after = case.ids("reference"), changed.ids("reference")
    untouched = [i for i in range(len(case.values)) if i < at or i >= min(at + case.spec.longest, end)]
    assert torch.equal(before[untouched], after[untouched])


@given(cases(), st.integers(0, 50))
@settings(max_examples=100, deadline=None)
def test_one_more_event_changes_only_its_own_ids(case: Case, value: int) -> None:
    assume(case.lengths)
    longer = replace(
        case,
        values=[*case.values, value],
        times=[*case.times, 30],
        lengths=[*case.lengths[:-1], case.lengths[-1] + 1],
    )
    assert torch.equal(longer.ids("reference")[:-1], case.ids("reference"))


@given(cases(), st.data())
@settings(max_examples=100, deadline=None)
def test_a_hidden_event_makes_two_sequences_of_one(case: Case, data: st.DataObject) -> None:
    """With another event in its place, what comes after it is the same."""
    shown = [value + (value == HIDDEN) for value in case.values]
    at = data.draw(st.integers(0, max(len(shown) - 1, 0)))
    assume(shown)
    hidden = replace(case, values=[*shown[:at], HIDDEN, *shown[at + 1 :]], hidden=HIDDEN)
    cut = replace(hidden, values=[0] * at + hidden.values[at:])
    assert torch.equal(hidden.ids("reference")[at:], cut.ids("reference")[at:])
    alone = row_of([HIDDEN + 1] + [0] * case.spec.longest, case.spec.head_numbers()[0], case.spec.hash == "polynomial")
    assert int(hidden.ids("reference")[at, 0]) == alone
