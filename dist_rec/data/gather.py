"""The list entries of some rows of a table, in an order of one's own.

C++ (`_host.cpp`) copies whole ranges; without it numpy does the same by an index per entry. Legend: B ranges, M values,
N values of all ranges."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_rec.data.columns import Ints, expand_ranges
from dist_rec.data.dedup import native

MAX_AGE_SECONDS = 2**31 - 1


@dataclass(frozen=True)
class Lists:
    """A list column of B rows: entries `starts[b]` to `starts[b] + lengths[b]` of all `entries`."""

    entries: NDArray
    starts: Ints
    lengths: Ints

    @property
    def values(self) -> NDArray:
        """(N,) the entries of one row after the other."""
        return gather(self.entries, self.starts, self.lengths)


def gather(values: NDArray, starts: Ints, lengths: Ints) -> NDArray:
    """(N,) `values[starts[b] : starts[b] + lengths[b]]` of every range, one after the other, in the dtype of `values`.

    Args:
        values: (M,) contiguous.
        starts, lengths: (B,) int64, ranges within the values.

    Raises:
        ValueError: a range that is not within the values.
    """
    host = native()
    if host is None:
        _check(starts, lengths, len(values))
        return values[expand_ranges(starts, lengths)[1]]
    result = np.empty(_room(starts, lengths, len(values)), values.dtype)
    host.gather(values, len(values), values.itemsize, starts, lengths, result, len(result))
    return result


def gather_ages(times: Ints, starts: Ints, lengths: Ints, now: Ints) -> NDArray[np.int32]:
    """(N,) `now[b]` minus the times that `gather` would give, clipped to [0, 2^31 - 1].

    Args:
        times: (M,) int64 seconds, contiguous.
        now: (B,) int64 seconds.

    Raises:
        ValueError: a range that is not within the times.
    """
    host = native()
    if host is None:
        _check(starts, lengths, len(times))
        row, index = expand_ranges(starts, lengths)
        return np.clip(now[row] - times[index], 0, MAX_AGE_SECONDS).astype(np.int32)
    result = np.empty(_room(starts, lengths, len(times)), np.int32)
    host.gather_ages(times, len(times), starts, lengths, now, result, len(result))
    return result


def _room(starts: Ints, lengths: Ints, count: int) -> int:
    """Values of all ranges. C++ looks at every range; here only what would not fit into memory is refused."""
    total = int(lengths.sum())
    if not 0 <= total <= len(lengths) * count:
        _check(starts, lengths, count)
    return total


def _check(starts: Ints, lengths: Ints, count: int) -> None:
    wrong = np.flatnonzero((starts < 0) | (lengths < 0) | (lengths > count) | (starts > count - lengths))
    if len(wrong):
        raise ValueError(
            f"expected ranges within {count} values, got {lengths[wrong[0]]} values from {starts[wrong[0]]} on"
        )
