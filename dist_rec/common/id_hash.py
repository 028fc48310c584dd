"""Raw ids as they come, and the fixed hash that names their rows."""

import numpy as np
from numpy.typing import NDArray

from dist_rec.common.open_ids import HIDDEN_ID


def raw_ids(values: NDArray) -> NDArray[np.int64]:
    """The same ids as int64 without `HIDDEN_ID`, in whose place the next number stands."""
    return np.maximum(values.astype(np.int64, copy=False), HIDDEN_ID + 1)


def hashed_rows(ids: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """Of each raw id its row from 0 to rows - 1; of `HIDDEN_ID` the row after them."""
    found = (mixed(ids) % np.uint64(rows)).astype(np.int64)
    found[ids == HIDDEN_ID] = rows
    return found


def mixed(ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The first output of SplitMix64 (Steele, Lea, Flood 2014) seeded with each id: a one-to-one map of 64 bits, the
    same on every platform and in every version."""
    x = ids.view(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)
