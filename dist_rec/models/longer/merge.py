"""Where events go when K neighbours become one row (LONGER, arXiv 2505.04421, section 3.4).

Legend: B requests, N events, K merge factor, M merged rows of all requests.
"""

import numpy as np
import torch
from torch import Tensor

from dist_rec.data.lengths import Lengths, Slots


def merged_places(lengths: Lengths, merge: int) -> tuple[Tensor, Lengths]:
    """(N,) int64, the place of every event among M * K, and how many merged rows each request has.

    A group is K slots, counted so that the newest event is in a full one. A group all of whose slots are empty has no
    row, and the slots of the merged rows are their groups."""
    if lengths.slots is not None:
        return _among_empty(lengths, lengths.slots, merge)
    merged = lengths.map(lambda n: (n + merge - 1) // merge)
    # Everything before and in a request's own padding shifts its events to the right.
    shift = (merged.tensor * merge - lengths.tensor).cumsum(0)
    return torch.arange(lengths.total, device=shift.device) + shift[lengths.request], merged


def _among_empty(lengths: Lengths, slots: Slots, merge: int) -> tuple[Tensor, Lengths]:
    """On the host, which knows all slots: how many rows there are follows from the events, not from lengths alone."""
    device = lengths.given.device
    request = np.repeat(np.arange(len(lengths)), lengths.host)
    groups = -(-slots.lengths.host // merge)
    shifted = slots.host + (groups * merge - slots.lengths.host)[request]
    group, within = np.divmod(shifted, merge)
    first = np.ones(len(group), bool)
    first[1:] = (np.diff(group) != 0) | (np.diff(request) != 0)
    place = (np.cumsum(first) - 1) * merge + within
    merged = np.bincount(request[first], minlength=len(lengths)).astype(np.int32)
    position = group[first].astype(np.int32)
    places = slots.lengths.map(lambda n: (n + merge - 1) // merge)
    there = Slots(_sent(position, device), position, places)
    return _sent(place.astype(np.int64), device), Lengths(_sent(merged, device), merged, slots=there)


def _sent(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(values).to(device, non_blocking=True)
