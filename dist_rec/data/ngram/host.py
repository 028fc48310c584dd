"""Ids of n-grams on the host, in NumPy: bitwise those of `dist_rec.kernels.ngram_ids`, whose rules these are.

Legend: N events of B sequences, C candidates, M sub-tables.
"""

import numpy as np
from numpy.typing import NDArray

from dist_rec.common.ngram import NgramSpec
from dist_rec.data.gather import gather

Ints = NDArray[np.int64]


def host_ngram_ids(
    values: NDArray,
    lengths: NDArray,
    spec: NgramSpec,
    *,
    hidden: int | None = None,
    times: NDArray | None = None,
    slots: NDArray | None = None,
) -> Ints:
    """(N, M) int64 rows in the fused table.

    Args:
        values: (N,) ids, any integers from 0 to 2^63 - 2; the events of one sequence after the other, oldest first.
        lengths: (B,) events of each sequence.
        hidden: the id of events that n-grams stop at; None: there are none.
        times: (N,) seconds of the events, or their ages; needed for `gap_seconds`.
        slots: (N,) places of the events in their sequence; n-grams stop at an empty one. None: there are none.

    Raises:
        ValueError: lengths do not add up to N, or times are missing.
    """
    if int(lengths.sum()) != len(values):
        raise ValueError(f"lengths: expected {len(values)} events in all, got {int(lengths.sum())}")
    if spec.gap_seconds is not None and times is None:
        raise ValueError(f"gap_seconds={spec.gap_seconds} needs the times of the events")
    joined = _joined(values, lengths, hidden)
    if spec.gap_seconds is not None and times is not None:
        joined[1:] &= np.abs(np.diff(times.astype(np.int64))) <= spec.gap_seconds
    if slots is not None:
        joined[1:] &= np.diff(slots) == 1
    tokens = _tokens(values.astype(np.uint64) + np.uint64(1), joined, spec)
    found = np.empty((len(values), spec.tables), np.int64)
    state: dict[int, NDArray[np.uint64]] = {}  # of each head, one token longer with every order
    hashed = 0
    for m, (order, rows, first, key, *powers) in enumerate(spec.head_numbers()):
        if spec.hash == "polynomial":
            found[:, m] = _polynomial(tokens[:order], rows, powers)
        else:
            head = m % spec.heads
            longer = state.get(head, np.full(len(values), key & (2**64 - 1), np.uint64))
            for token in tokens[hashed if head in state else 0 : order]:
                longer = _mix(longer ^ token)
            state[head] = longer
            hashed = order if head == spec.heads - 1 else hashed
            found[:, m] = (longer >> np.uint64(32)) * np.uint64(rows) >> np.uint64(32)
        found[:, m] += first
    return found


def candidate_ngram_ids(
    events: NDArray,
    lengths: NDArray,
    candidates: NDArray,
    seen: Ints,
    spec: NgramSpec,
    *,
    hidden: int | None = None,
    ages: NDArray | None = None,
    slots: NDArray | None = None,
) -> Ints:
    """(C, M) int64: the rows of each candidate as if it were the next event.

    Args:
        events: (N,) ids of the events of B requests; `lengths` (B,) of each.
        candidates: (C,) ids.
        seen: (C, 3) int64: the request of each candidate, how many of its oldest events it sees, and how many places.
        hidden: as in `host_ngram_ids`.
        ages: (N,) seconds from the events to their request, which is the time of its candidates.
        slots: (N,) places of the events; a candidate is behind the last place that it sees.
    """
    request, visible, places = seen.T
    used = visible.clip(max=spec.longest - 1)
    first = (np.cumsum(lengths) - lengths)[request] + visible - used
    ends = np.cumsum(used + 1) - 1
    is_event = np.ones(int((used + 1).sum()), bool)
    is_event[ends] = False

    def joined_to(of_events: NDArray, of_candidates: NDArray | int) -> Ints:
        found = np.empty(len(is_event), np.int64)
        found[is_event], found[ends] = gather(of_events, first, used), of_candidates
        return found

    times = None if ages is None else joined_to(ages, 0)
    of_all = None if slots is None else joined_to(slots, places)
    ids = host_ngram_ids(joined_to(events, candidates), used + 1, spec, hidden=hidden, times=times, slots=of_all)
    return ids[ends]


def _joined(values: NDArray, lengths: NDArray, hidden: int | None) -> NDArray[np.bool_]:
    """(N,) whether there is an event before it that is shown, as the event is."""
    joined = np.ones(len(values), bool)
    starts = np.cumsum(lengths) - lengths
    joined[starts[lengths > 0]] = False
    if hidden is not None:
        shown = values != hidden
        joined[1:] &= shown[1:] & shown[:-1]
    return joined


def _tokens(newest: NDArray[np.uint64], joined: NDArray[np.bool_], spec: NgramSpec) -> list[NDArray[np.uint64]]:
    """(N,) tokens of every event, of the one before it, and so on; 0 where looking back has stopped."""
    found, reaches = [newest], joined
    for j in range(1, spec.longest):
        before = np.zeros_like(newest)
        before[j:] = newest[: max(len(newest) - j, 0)]
        found.append(before * reaches)
        reaches = reaches & np.concatenate([np.zeros(min(j, len(joined)), bool), joined[: max(len(joined) - j, 0)]])
    return found


def _polynomial(tokens: list[NDArray[np.uint64]], rows: int, powers: list[int]) -> Ints:
    state = np.zeros(len(tokens[0]), np.int64)
    for token, power in zip(tokens, powers, strict=False):
        state = (state + token.astype(np.int64) % rows * power) % rows
    return state


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)
