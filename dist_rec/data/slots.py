"""Sequences with empty places, merged and joined. On the host, which knows every place: how many rows there are follows
from the events, not from lengths alone, and nothing waits for the device.

Legend: B requests, N rows.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_rec.data.lengths import Lengths, Slots


def grouped_slots(lengths: Lengths, slots: Slots, merge: int) -> tuple[Tensor, Lengths]:
    """(N,) int64, the place of every row where `merge` neighbouring slots are one group, and the groups with a row of
    each request. Groups are counted so that the newest slot is in a full one; their slots are all groups."""
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


def _sent(values: NDArray, device: torch.device) -> Tensor:
    """Pinned first where it goes to a GPU: from other memory the host would wait for the copy."""
    there = torch.from_numpy(values)
    return (there.pin_memory() if device.type == "cuda" else there).to(device, non_blocking=True)


def joined_slots(lengths: list[Lengths], together: Lengths, places: list[Tensor]) -> Slots:
    """Slots of sequences that are joined in every request: those of a sequence come after all slots of the ones before.

    Args:
        lengths: of each sequence.
        together: of the joined rows.
        places: of each sequence (N_s,), where its rows are among the joined ones.
    """
    position = together.rows.clone()
    host = np.empty(together.total, np.int32)
    at, done, slots = np.cumsum(together.host) - together.host, 0 * together.host, None
    for own, place in zip(lengths, places, strict=True):
        slot, before = own.slot.int(), None if slots is None else slots.tensor[own.request]
        position[place] = slot if before is None else slot + before
        request = np.repeat(np.arange(len(own)), own.host)
        first = np.cumsum(own.host) - own.host
        index = np.arange(own.total) - first[request]
        of_host = index if own.slots is None else own.slots.host
        host[at[request] + done[request] + index] = of_host + (0 if slots is None else slots.host[request])
        done = done + own.host
        slots = own.places if slots is None else slots.plus(own.places)
    assert slots is not None, "at least one sequence is joined"
    return Slots(position, host, slots)
