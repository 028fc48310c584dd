"""N-grams of a batch that is on its device: hashed from the ids that were sent, and deduplicated there.

Legend: N events of one sequence, M sub-tables, U distinct rows of n-grams.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from dist_rec.data.layout import FieldNgrams
from dist_rec.data.lengths import Lengths
from dist_rec.data.ngram.counts import NgramUse, use_by_order
from dist_rec.data.unique_tokens import UniqueTokens
from dist_rec.kernels.ngram_ids import ngram_ids
from dist_rec.kernels.unique_ids import unique_ids, unpack_index

T = TypeVar("T", bound=UniqueTokens)


@dataclass(frozen=True)
class DeviceHash:
    """What is left to hash: owner -> its n-grams, whose `heads.<owner>` (M, 4 + longest) are in the batch; `dedup`:
    whether rows that occur again are looked up once."""

    ngrams: dict[str, FieldNgrams]
    dedup: bool


def heads_of(ngrams: Mapping[str, FieldNgrams]) -> dict[str, Tensor]:
    """The numbers that travel with a batch whose n-grams are hashed on the device."""
    return {f"heads.{owner}": torch.tensor(of.spec.head_numbers()) for owner, of in ngrams.items()}


def hashed(tokens: T, of: DeviceHash, lengths: Mapping[str, Lengths]) -> tuple[T, dict[str, NgramUse]]:
    """The batch with the rows of its n-grams: `ids.<owner>` (U,) int64 ascending and `inverse.<owner>` (N M,) int32;
    and their use by order. `lengths` of the sequences.

    The host waits for the device, for U and for how many of the rows are of each order.
    """
    use: dict[str, NgramUse] = {}
    tensors, num_unique, counts = dict(tokens.tensors), dict(tokens.num_unique), dict(tokens.counts)
    for owner, grams in of.ngrams.items():
        inverse = tokens.inverse(grams.sequence)
        whole = inverse if isinstance(inverse, Tensor) else unpack_index(inverse)
        times, gap = _pauses(tensors, grams, lengths[grams.sequence])
        rows = ngram_ids(
            tokens.ids_of(grams.key)[whole],
            # Not `offsets`: what lengths keep must be made on the stream of the model, which uses it later.
            torch.nn.functional.pad(lengths[grams.sequence].tensor.cumsum(0, dtype=torch.int32), (1, 0)),
            tensors[f"heads.{owner}"],
            polynomial=grams.spec.hash == "polynomial",
            hidden=grams.hidden,
            times=times,
            gap=gap,
        ).flatten()
        if of.dedup:
            found = unique_ids(rows)  # Host sync: the shapes of what is looked up and sent between ranks.
            tensors[f"ids.{owner}"], tensors[f"inverse.{owner}"] = found.values, found.inverse
        else:
            tensors[f"ids.{owner}"] = rows
            tensors[f"inverse.{owner}"] = torch.arange(len(rows), dtype=torch.int32, device=rows.device)
        num_unique[owner], counts[owner] = len(tensors[f"ids.{owner}"]), len(rows)
        ascending = tensors[f"ids.{owner}"] if of.dedup else rows.sort().values
        places = torch.searchsorted(ascending, tensors[f"heads.{owner}"][:, 2].contiguous())
        of_tables = places.diff(append=places.new_full((1,), len(ascending)))
        use |= use_by_order(of_tables.tolist(), counts[grams.sequence], grams)
    more = [num_unique[owner] for owner in of.ngrams]
    sizes = torch.tensor(more, dtype=torch.int32).to(tensors["unique"].device, non_blocking=True)
    tensors["unique"] = torch.cat([tensors["unique"], sizes])
    return replace(tokens, tensors=tensors, num_unique=num_unique, counts=counts), use


def _pauses(tensors: Mapping[str, Tensor], of: FieldNgrams, lengths: Lengths) -> tuple[Tensor | None, int]:
    """(N,) numbers of the events, and how far they may differ between two of an n-gram: times and the longest pause.
    With empty places also what they break: then numbers that rise at every break, which may not differ."""
    times = None if of.spec.gap_seconds is None else tensors[f"age.{of.sequence}"]
    gap = of.spec.gap_seconds or 0
    if lengths.slots is None or lengths.total == 0:
        return times, gap
    breaks = lengths.slots.position.diff() != 1
    if times is not None:
        breaks |= times.diff().abs() > gap
    return torch.nn.functional.pad(breaks.cumsum(0, dtype=torch.int32), (1, 0)), 0
