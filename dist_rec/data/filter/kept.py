"""What a filter leaves of the events of one owner.

Legend: B requests, N events of all of them, M of them that are left.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_rec.data.columns import Ints
from dist_rec.data.filter.actions import Action


@dataclass(frozen=True)
class KeptSlots:
    """Where the events that are left stand, if some places are empty: `position` (M,) int32 from 0 on in the sequence,
    and `lengths` (B,) int32, the places of each sequence."""

    position: NDArray[np.int32]
    lengths: NDArray[np.int32]


@dataclass(frozen=True)
class Kept:
    """- `index` (M,) int64, ascending: which of the N events are left; None for all of them
    - `lengths` (B,) int64: how many of each request
    - `hidden` (M,) bool: the events that are HIDDEN, or None for none
    - `before`, `places_before` (N + 1,) int64: how many of the first n events are left, and have a place
    - `slots`: None where no place is empty
    """

    index: Ints | None
    lengths: Ints
    hidden: NDArray[np.bool_] | None
    before: Ints
    places_before: Ints
    slots: KeptSlots | None

    def of(self, values: NDArray) -> NDArray:
        """(N,) -> (M,)"""
        return values if self.index is None else values[self.index]

    def shown(self, values: NDArray, hidden: int | float) -> NDArray:
        """(N,) ids, side values or numbers -> (M,), with the value `hidden` for events that are HIDDEN, in a type that
        holds it."""
        left = self.of(values)
        if self.hidden is None:
            return left
        shown = left.astype(np.result_type(left.dtype, np.min_scalar_type(hidden)))
        shown[self.hidden] = hidden
        return shown


def kept_events(actions: NDArray[np.uint8], lengths: Ints, max_length: int | None) -> Kept | None:
    """Of a sequence after `actions` (N,), with its newest `max_length` places; None if every event stays as it is.

    A dropped event takes no place, and an older one comes in for it; a hidden or key-masked one keeps its place."""
    if not len(actions) or actions.max() <= Action.MASK:
        return None
    there, ends = actions != Action.DROP, np.cumsum(lengths)
    places_before = _sums(there)
    places = _of_each(places_before, ends)
    cut = places if max_length is None else places.clip(max=max_length)
    # The place of each event in its sequence, from 0 for the oldest that is not cut off.
    place = places_before[:-1] - np.repeat(places_before[ends - lengths] + places - cut, lengths)
    left = there & (place >= 0) & (actions != Action.KEYMASK)
    before = _sums(left)
    index = None if left.all() else np.flatnonzero(left)
    keymasked = Action.KEYMASK in actions
    return Kept(
        index=index,
        lengths=_of_each(before, ends),
        hidden=_any((actions if index is None else actions[index]) == Action.HIDE),
        before=before,
        places_before=places_before,
        slots=KeptSlots(place[left].astype(np.int32), cut.astype(np.int32)) if keymasked else None,
    )


def kept_candidates(actions: NDArray[np.uint8], lengths: Ints) -> Kept | None:
    """Of the candidates after `actions` (N,). A key-masked one is not read and not trained, like a hidden one: a
    candidate is no key that others see."""
    if not len(actions) or actions.max() <= Action.MASK:
        return None
    left = actions != Action.DROP
    before, index = _sums(left), None if left.all() else np.flatnonzero(left)
    hidden = _any((actions if index is None else actions[index]) >= Action.HIDE)
    return Kept(index, _of_each(before, np.cumsum(lengths)), hidden, before, before, None)


def _any(flags: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    return flags if flags.any() else None


def _sums(flags: NDArray[np.bool_]) -> Ints:
    """(N,) -> (N + 1,)"""
    sums = np.zeros(len(flags) + 1, np.int64)
    np.cumsum(flags, out=sums[1:])
    return sums


def _of_each(sums: Ints, ends: Ints) -> Ints:
    """(B,) of each request, from the sums over all before."""
    return np.diff(sums[ends], prepend=0)
