"""Host-side dedup: the distinct tokens of a batch and, for every event, which of them it is.

A token is the tuple of static fields of one event. Everything later (transfer, lookup, all-to-all) handles the U unique
tokens; the N events keep only an index into them.
"""

from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class UniqueTokens:
    """`columns[f][inverse] == original column f`, for every field f."""

    columns: list[np.ndarray]  # per field: (U,) int64
    inverse: np.ndarray  # (N,) int32


def unique_tokens(columns: list[np.ndarray]) -> UniqueTokens:
    """Distinct rows of parallel int64 columns, sorted, with the inverse index.

    The order of the result depends on the values alone, so it does not change with workers or ranks. Fields are folded in
    one at a time through the index found so far, which keeps every key below 2^63 whatever the ids are.

    Raises ValueError if the columns differ in length or none is given.
    """
    if not columns:
        raise ValueError("unique_tokens needs at least one column")
    lengths = {len(column) for column in columns}
    if len(lengths) > 1:
        raise ValueError(f"columns of one token set must have the same length, got {[len(c) for c in columns]}")
    uniques, inverse = _unique(columns[0])
    rows = [uniques]
    for column in columns[1:]:
        values, codes = _unique(column)
        pairs, inverse = _unique(inverse * len(values) + codes)
        before, now = np.divmod(pairs, len(values)) if len(values) else (pairs, pairs)
        rows = [field[before] for field in rows] + [values[now]]
    return UniqueTokens(rows, inverse.astype(np.int32))


def _unique(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # torch's sort-based unique is about twice as fast as numpy's here.
    values, inverse = torch.unique(torch.from_numpy(np.ascontiguousarray(column, dtype=np.int64)), return_inverse=True)
    return values.numpy(), inverse.numpy()
