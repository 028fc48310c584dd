"""Where events go when K neighbours become one row (LONGER, arXiv 2505.04421, section 3.4).

Legend: B requests, N events, K merge factor, M merged rows of all requests.
"""

import torch
from torch import Tensor

from dist_rec.data.lengths import Lengths
from dist_rec.data.slots import grouped_slots


def merged_places(lengths: Lengths, merge: int) -> tuple[Tensor, Lengths]:
    """(N,) int64, the place of every event among M * K, and how many merged rows each request has.

    A group is K slots, counted so that the newest event is in a full one. A group all of whose slots are empty has no
    row, and the slots of the merged rows are their groups."""
    if lengths.slots is not None:
        return grouped_slots(lengths, lengths.slots, merge)
    merged = lengths.map(lambda n: (n + merge - 1) // merge)
    # Everything before and in a request's own padding shifts its events to the right.
    shift = (merged.tensor * merge - lengths.tensor).cumsum(0)
    return torch.arange(lengths.total, device=shift.device) + shift[lengths.request], merged
