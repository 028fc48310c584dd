"""Deduplicated ids on their way to the device: the distinct ids of every key, and the index of each element's id.

`HostBatch` (training) and `UniqueFeatures` (plug-in) add more tensors to the same buffer.

Legend: N elements of one owner, U distinct tokens of one feature set, F keys.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_rec.data.dedup import DistinctRows, pack_inverse, unique_tokens, unpack_inverse
from dist_rec.data.layout import FeatureSet
from dist_rec.data.torchrec_types import KeyedJaggedTensor, Pipelineable
from dist_rec.data.transfer_buffer import TransferBuffer, restore_ids, shrink_ids
from dist_rec.kernels.unique_ids import BitPackedIndex

T = TypeVar("T", bound="UniqueTokens")
# FBGEMM's kernels on a GPU take the ids of one sample one after the other: a thread buckets them by rank, a warp looks
# them up. As many samples as these keep a GPU busy. The number is that of every batch and rank: where it differs,
# TorchRec sorts out samples in Python.
SAMPLES_ON_GPU = 4096


@dataclass(frozen=True, eq=False)
class UniqueTokens(Pipelineable):
    """Distinct ids by key, and an inverse index by owner.

    An owner has elements with ids, such as the events of a sequence. Owners of one feature set are deduplicated
    together.

    `tensors` are views of one `TransferBuffer`, or apart. There may be others of the batch beside these:

    - `ids.<key>` (U,) in the smallest integer type, see `shrink_ids`
    - `inverse.<owner>` the words of a bit-packed index, or (N,) int32 for an owner without `bits`
    - `unique` (F,) int32, U of every key

    On the host:

    - `num_unique` key -> U, in the order of the keys
    - `bits` owner -> bits of its inverse index
    - `counts` owner -> N
    """

    tensors: Mapping[str, Tensor]
    num_unique: dict[str, int]
    bits: dict[str, int]
    counts: dict[str, int]

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # without cached properties

    def ids_of(self, key: str) -> Tensor:
        """(U,) int64 distinct ids."""
        return restore_ids(self.tensors[f"ids.{key}"])

    def inverse(self, owner: str) -> Tensor | BitPackedIndex:
        """(N,) the row of each element among the distinct tokens: int32, or bit-packed on a GPU if it was sent so.

        Kernels on a GPU unpack it while they read it."""
        index = self.tensors[f"inverse.{owner}"]
        if owner not in self.bits:
            return index
        packed = BitPackedIndex(index, self.bits[owner], self.counts[owner])
        return unpack_inverse(packed) if index.device.type == "cpu" else packed

    @cached_property
    def deduplicated(self) -> KeyedJaggedTensor:
        """The features to look up: the U ids of each key, int64, spread over samples that mean nothing."""
        counts = self.tensors["unique"]
        samples = samples_of(counts.device)
        return KeyedJaggedTensor(
            keys=list(self.num_unique),
            values=torch.cat([self.ids_of(key) for key in self.num_unique]),
            lengths=spread(counts, samples, max(self.num_unique.values(), default=0)),
            stride=samples,
            length_per_key=list(self.num_unique.values()),  # else TorchRec would wait for the device
        )

    @property
    def nbytes(self) -> int:
        """Bytes that `to` moves, with all other tensors in the buffer."""
        return sum(tensor.nbytes for tensor in self._memory())

    def to(self: T, device: torch.device, non_blocking: bool = False) -> T:
        """One copy of the buffer; with `non_blocking` it does not wait if the buffer is pinned."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self: T) -> T:
        return self._map(lambda tensor: tensor.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        for tensor in self._memory():
            tensor.record_stream(stream)  # pyright: ignore[reportArgumentType] - torch's stub wants its private base class

    def _memory(self) -> list[Tensor]:
        tensors = self.tensors
        return [tensors.buffer] if isinstance(tensors, TransferBuffer) else list(tensors.values())

    def _map(self: T, move: Callable[[Tensor], Tensor]) -> T:
        tensors = self.tensors
        if isinstance(tensors, TransferBuffer):
            return replace(self, tensors=tensors.map(move))
        return replace(self, tensors={name: move(tensor) for name, tensor in tensors.items()})


def samples_of(device: torch.device) -> int:
    """Over how many samples the distinct ids of every batch are spread on a device."""
    return SAMPLES_ON_GPU if device.type == "cuda" else 1


def spread(counts: Tensor, samples: int, most: int) -> Tensor:
    """(F samples,) int32 lengths of samples that together hold `counts` (F,) int32 ids of every key, `most` at most.

    In memory of its own: pipelines may free that of their input."""
    per_sample = -(-most // samples)
    before = torch.arange(samples, dtype=counts.dtype, device=counts.device) * per_sample
    return (counts[:, None] - before).clamp(0, per_sample).flatten()


def deduplicate(
    columns: Mapping[str, Sequence[NDArray]],
    owners: Mapping[str, FeatureSet],
    sizes: Mapping[str, int | None],
    find: Callable[[list[NDArray]], DistinctRows] = unique_tokens,
) -> UniqueTokens:
    """Tokens of a batch in host memory, not in one buffer; `unique` is the last tensor.

    Args:
        columns: owner -> (N,) ids for each key of its feature set, any integers that fit int64.
        owners: owner -> its feature set.
        sizes: key -> upper limit of its ids, in the order of the keys; None: the largest id of the batch decides.
        find: finds the distinct rows of the columns of a feature set.

    Raises:
        ValueError: an id outside [0, size), and what `unique_tokens` refuses.
    """
    tensors: dict[str, Tensor] = {}
    num_unique = dict.fromkeys(sizes, 0)
    bits: dict[str, int] = {}
    counts: dict[str, int] = {}
    for feature_set in dict.fromkeys(owners.values()):
        members = [owner for owner, of in owners.items() if of == feature_set]
        by_key = list(zip(*(columns[owner] for owner in members), strict=True))
        found = find([parts[0] if len(parts) == 1 else np.concatenate(parts) for parts in by_key])
        for key, ids in zip(feature_set.keys, found.columns, strict=True):
            tensors[f"ids.{key}"] = _shrink(key, torch.from_numpy(ids.astype(np.int64, copy=False)), sizes[key])
            num_unique[key] = len(ids)
        ends = np.cumsum([len(part) for part in by_key[0]])
        for owner, inverse in zip(members, np.split(found.inverse, ends[:-1]), strict=True):
            packed = pack_inverse(torch.from_numpy(inverse), len(found.columns[0]))
            tensors[f"inverse.{owner}"], bits[owner], counts[owner] = packed.words, packed.bits, len(packed)
    tensors["unique"] = torch.tensor(list(num_unique.values()), dtype=torch.int32)
    return UniqueTokens(tensors, num_unique, bits, counts)


def remapped(
    tokens: UniqueTokens, remaps: Mapping[str, Callable[[NDArray], NDArray]], sizes: Mapping[str, int | None]
) -> UniqueTokens:
    """The same tokens, with what `remaps` makes of the distinct ids of some keys; `sizes` as in `deduplicate`."""
    found = {
        f"ids.{key}": _shrink(key, torch.from_numpy(remap(tokens.ids_of(key).numpy())), sizes[key])
        for key, remap in remaps.items()
    }
    return replace(tokens, tensors={**tokens.tensors, **found})


def together(first: UniqueTokens, more: UniqueTokens) -> UniqueTokens:
    """Those of two, of other owners and keys, as `deduplicate` makes them."""
    tensors = {name: of for each in (first, more) for name, of in each.tensors.items() if name != "unique"}
    return UniqueTokens(
        tensors=tensors | {"unique": torch.cat([first.tensors["unique"], more.tensors["unique"]])},
        num_unique=first.num_unique | more.num_unique,
        bits=first.bits | more.bits,
        counts=first.counts | more.counts,
    )


def _shrink(key: str, ids: Tensor, size: int | None) -> Tensor:
    if size is not None and len(ids):
        low, high = (int(x) for x in torch.aminmax(ids))
        if low < 0 or high >= size:
            raise ValueError(f"{key}: expected ids from 0 to {size - 1}, got {low if low < 0 else high}")
    return shrink_ids(ids, size)
