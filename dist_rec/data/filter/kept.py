"""What a filter leaves of the events of one owner.

Legend: B requests, N events of all of them, M of them that are left.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_rec.data.columns import Ints
from dist_rec.data.filter.actions import Action


@dataclass(frozen=True)
class Slots:
    """Where the events that are left stand, if some places are empty: `position` (M,) int32 from 0 on in the sequence,
    and `lengths` (B,) int32, the places of each sequence."""

    position: NDArray[np.int32]
    lengths: NDArray[np.int32]


@dataclass(frozen=True)
class Kept:
    """- `index` (M,) int64, ascending: which of the N events are left
    - `lengths` (B,) int64: how many of each request
    - `hidden` (M,) bool: the events that are HIDDEN, or None for none
    - `before`, `places_before` (N + 1,) int64: how many of the first n events are left, and have a place
    - `slots`: None where no place is empty
    """

    index: Ints
    lengths: Ints
    hidden: NDArray[np.bool_] | None
    before: Ints
    places_before: Ints
    slots: Slots | None

    def of(self, values: NDArray) -> NDArray:
        """(N,) -> (M,)"""
        return values[self.index]

    def shown(self, values: NDArray, hidden: int) -> NDArray:
        """(N,) ids or side values -> (M,), with the value `hidden` for events that are HIDDEN, in a type that holds
        it."""
        left = self.of(values)
        if self.hidden is None:
            return left
        kind = np.result_type(left.dtype, np.min_scalar_type(hidden))
        return np.where(self.hidden, np.array(hidden, kind), left.astype(kind, copy=False))


def kept_events(actions: NDArray[np.uint8], lengths: Ints, max_length: int | None) -> Kept | None:
    """Of a sequence after `actions` (N,), with its newest `max_length` places; None if every event stays as it is.

    A dropped event takes no place, and an older one comes in for it; a hidden or key-masked one keeps its place."""
    if not len(actions) or actions.max() <= Action.MASK:
        return None
    request = np.repeat(np.arange(len(lengths)), lengths)
    there = actions != Action.DROP
    places = np.bincount(request[there], minlength=len(lengths))
    first = np.concatenate([[0], np.cumsum(places)[:-1]])
    place = np.cumsum(there) - 1 - first[request]  # of those that are there
    cut = places if max_length is None else places.clip(max=max_length)
    oldest = places - cut  # places before this are cut off
    left = there & (place >= oldest[request]) & (actions != Action.KEYMASK)
    index = np.flatnonzero(left)
    slots = None
    if Action.KEYMASK in actions:
        owner = request[index]
        slots = Slots((place[index] - oldest[owner]).astype(np.int32), cut.astype(np.int32))
    return Kept(
        index=index,
        lengths=np.bincount(request[index], minlength=len(lengths)),
        hidden=_any(actions[index] == Action.HIDE),
        before=_sums(left),
        places_before=_sums(there),
        slots=slots,
    )


def kept_candidates(actions: NDArray[np.uint8], lengths: Ints) -> Kept | None:
    """Of the candidates after `actions` (N,). A key-masked one is not read and not trained, like a hidden one: a
    candidate is no key that others see."""
    if not len(actions) or actions.max() <= Action.MASK:
        return None
    left = actions != Action.DROP
    index = np.flatnonzero(left)
    request = np.repeat(np.arange(len(lengths)), lengths)[index]
    hidden = _any(actions[index] >= Action.HIDE)
    sums = _sums(left)
    return Kept(index, np.bincount(request, minlength=len(lengths)), hidden, sums, sums, None)


def _any(flags: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    return flags if flags.any() else None


def _sums(flags: NDArray[np.bool_]) -> Ints:
    return np.concatenate([[0], np.cumsum(flags)])
