"""A `KeyedJaggedTensor` without repetition: what `DedupLoader` puts in its place and the dedup collections look up.

Legend: B samples, N values of one key, U distinct ones, F keys. Keys of one **token set** have equal lengths in every sample
and are deduplicated together, so that they share an inverse index.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from dist_rec.data.dedup import pack_inverse, unique_tokens, unpack_inverse
from dist_rec.data.wire import Packet, narrow, widen
from dist_rec.kernels.unique_ids import PackedIndex, Segments, unique_ids_bounded


@dataclass(frozen=True)
class TokenSet:
    """Keys deduplicated together: their values per key (`count`), distinct ones (`num_unique`), bits of the inverse index."""

    keys: tuple[str, ...]
    count: int
    num_unique: int
    bits: int


@dataclass(eq=False)
class UniqueFeatures(Pipelineable):
    """Distinct ids of every key, and where they belong.

    `tensors` has by name: `ids.<key>` (U,), `inverse.<set>` (N,) int32 or the words of a packed index, `lengths.<set>` (B,)
    int32, `unique` (F,) int32. Made by `of` it is one buffer on the host, which `to` moves by one copy.

    - `keys` in the order of the original; `sets` the token sets
    - `stride` B; `lengths_dtype` that of the original's lengths
    - `segments` per token set, where the order of its inverse index is known already
    - `plain_bytes`: bytes of the original
    """

    tensors: Packet | dict[str, Tensor]
    keys: tuple[str, ...]
    sets: tuple[TokenSet, ...]
    stride: int
    lengths_dtype: torch.dtype
    plain_bytes: int
    segments: dict[int, Segments] | None = None

    @classmethod
    def of(
        cls,
        features: KeyedJaggedTensor,
        token_sets: Sequence[Sequence[str]] = (),
        num_embeddings: Mapping[str, int] | None = None,
        *,
        pin_memory: bool = False,
    ) -> "UniqueFeatures":
        """Deduplicates on the host.

        Args:
            features: in host memory, int32 or int64 values, any ids.
            token_sets: keys to deduplicate together; every other key is a set of its own.
            num_embeddings: key -> ids are below this, which decides how many bytes they cross in; without it, the largest id
                of the batch does.

        Raises:
            ValueError: weights, strides that differ between keys, a key that is not there or stands in two sets, lengths
                that differ within a set.
        """
        check_supported(features)
        sets = complete_sets(features.keys(), token_sets)
        by_key = _by_key(features)
        tensors: dict[str, Tensor] = {}
        found: list[TokenSet] = []
        for number, keys in enumerate(sets):
            lengths = by_key[keys[0]].lengths()
            for key in keys[1:]:
                _check_same_lengths(keys[0], lengths, key, by_key[key].lengths())
            tokens = unique_tokens([by_key[key].values().numpy() for key in keys])
            packed = pack_inverse(torch.from_numpy(tokens.inverse), len(tokens.columns[0]))
            for key, column in zip(keys, tokens.columns, strict=True):
                size = None if num_embeddings is None else num_embeddings.get(key)
                tensors[f"ids.{key}"] = _narrow(key, torch.from_numpy(column), size)
            tensors[f"inverse.{number}"] = packed.words
            tensors[f"lengths.{number}"] = lengths.int()
            found.append(TokenSet(keys, len(packed), len(tokens.columns[0]), packed.bits))
        tensors["unique"] = torch.tensor(_per_key(features.keys(), found), dtype=torch.int32)
        return cls(
            tensors=Packet.of(tensors, pin_memory=pin_memory),
            keys=tuple(features.keys()),
            sets=tuple(found),
            stride=features.stride(),
            lengths_dtype=features.lengths().dtype,
            plain_bytes=features.values().nbytes + features.lengths().nbytes,
        )

    @classmethod
    def on_device(cls, features: KeyedJaggedTensor) -> "UniqueFeatures":
        """Deduplicates every key on the device where the features are, by sorting. The host waits once, for the numbers of
        distinct ids. Raises ValueError as `of` does."""
        check_supported(features)
        by_key = _by_key(features)
        bounded = {key: unique_ids_bounded(jagged.values()) for key, jagged in by_key.items()}
        counts = torch.stack([found.count for found in bounded.values()]).tolist()  # host sync: shapes of all that follows
        tensors: dict[str, Tensor] = {}
        sets: list[TokenSet] = []
        segments: dict[int, Segments] = {}
        for number, ((key, found), count) in enumerate(zip(bounded.items(), counts, strict=True)):
            tensors[f"ids.{key}"] = found.values[:count]
            tensors[f"inverse.{number}"] = found.inverse
            tensors[f"lengths.{number}"] = by_key[key].lengths().int()
            segments[number] = Segments(found.segments.order, found.segments.offsets[: count + 1])
            sets.append(TokenSet((key,), len(found.inverse), count, 32))
        tensors["unique"] = torch.tensor(counts, dtype=torch.int32, device=features.device())
        return cls(
            tensors=tensors,
            keys=tuple(features.keys()),
            sets=tuple(sets),
            stride=features.stride(),
            lengths_dtype=features.lengths().dtype,
            plain_bytes=features.values().nbytes + features.lengths().nbytes,
            segments=segments,
        )

    @cached_property
    def deduplicated(self) -> KeyedJaggedTensor:
        """What is looked up: stride 1, the U ids of each key."""
        return KeyedJaggedTensor(
            keys=list(self.keys),
            values=self._ids,
            lengths=self.tensors["unique"],
            stride=1,
            length_per_key=self._unique_per_key,
        )

    def inverse(self, key: str) -> Tensor | PackedIndex:
        """(N,) the place of each value among the distinct ones of its key; packed on a GPU if it came there packed."""
        return self._inverses[self._set_of[key]]

    def segments_of(self, key: str) -> Segments | None:
        return None if self.segments is None else self.segments[self._set_of[key]]

    def lengths(self, key: str) -> Tensor:
        """(B,) in the dtype of the original's lengths."""
        return self.tensors[f"lengths.{self._set_of[key]}"].to(self.lengths_dtype)

    def offsets(self, key: str) -> Tensor:
        """(B + 1,) int32 prefix sums of the lengths."""
        lengths = self.tensors[f"lengths.{self._set_of[key]}"]
        return torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))

    def ids(self, key: str) -> Tensor:
        """(U,) int64 distinct ids."""
        return widen(self.tensors[f"ids.{key}"])

    @property
    def nbytes(self) -> int:
        """Bytes that `to` moves."""
        tensors = self.tensors
        return tensors.nbytes if isinstance(tensors, Packet) else sum(tensor.nbytes for tensor in tensors.values())

    def to(self, device: torch.device, non_blocking: bool = False) -> "UniqueFeatures":
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "UniqueFeatures":
        return self._map(lambda tensor: tensor.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        tensors = [self.tensors] if isinstance(self.tensors, Packet) else [*self.tensors.values()]
        tensors += [tensor for of in (self.segments or {}).values() for tensor in (of.order, of.offsets)]
        for tensor in tensors:
            tensor.record_stream(stream)  # pyright: ignore[reportArgumentType] - torch's stub wants its private base class

    def _map(self, move: Callable[[Tensor], Tensor]) -> "UniqueFeatures":
        if isinstance(self.tensors, Packet):
            return replace(self, tensors=replace(self.tensors, buffer=move(self.tensors.buffer)))
        return replace(self, tensors={name: move(tensor) for name, tensor in self.tensors.items()}, segments=None)

    @cached_property
    def _ids(self) -> Tensor:
        return torch.cat([self.ids(key) for key in self.keys])

    @cached_property
    def _inverses(self) -> list[Tensor | PackedIndex]:
        if isinstance(self.tensors, dict):
            return [self.tensors[f"inverse.{number}"] for number in range(len(self.sets))]
        packed = [PackedIndex(self.tensors[f"inverse.{i}"], of.bits, of.count) for i, of in enumerate(self.sets)]
        return [unpack_inverse(index) if index.device.type == "cpu" else index for index in packed]

    @cached_property
    def _set_of(self) -> dict[str, int]:
        return {key: number for number, of in enumerate(self.sets) for key in of.keys}

    @property
    def _unique_per_key(self) -> list[int]:
        return _per_key(self.keys, self.sets)


def check_supported(features: KeyedJaggedTensor) -> None:
    """Raises ValueError for what deduplication would lose: weights, and strides that differ between keys."""
    if features.weights_or_none() is not None:
        raise ValueError(
            "features have weights, which belong to single values and cannot be deduplicated with them; expected "
            "weights=None, or leave these features as they are"
        )
    if features.variable_stride_per_key() or features.inverse_indices_or_none() is not None:
        raise ValueError(
            f"features have a stride per key ({features.stride_per_key()}): whole samples are deduplicated already; expected "
            "one stride for all keys, without inverse_indices"
        )


def complete_sets(keys: Sequence[str], token_sets: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """The given token sets, then one for every key that stands in none. Raises ValueError for an unknown or repeated key."""
    named = [key for of in token_sets for key in of]
    for key in named:
        if key not in keys:
            raise ValueError(f"token_sets: no key {key!r} in the features; there are: {', '.join(keys)}")
        if named.count(key) > 1:
            raise ValueError(f"token_sets: key {key!r} stands in them more than once")
    if not all(token_sets):
        raise ValueError(f"token_sets: a set needs at least one key, got {[list(of) for of in token_sets]}")
    return [*(tuple(of) for of in token_sets), *((key,) for key in keys if key not in named)]


def _by_key(features: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
    if features.stride() > 0:
        return features.to_dict()
    # TorchRec cannot take features without samples apart.
    return {key: JaggedTensor(values=features.values(), lengths=features.lengths()) for key in features.keys()}  # noqa: SIM118


def _per_key(keys: Sequence[str], sets: Sequence[TokenSet]) -> list[int]:
    """Distinct ids of every key."""
    of_key = {key: of.num_unique for of in sets for key in of.keys}
    return [of_key[key] for key in keys]


def _check_same_lengths(first: str, expected: Tensor, key: str, lengths: Tensor) -> None:
    if torch.equal(expected, lengths):
        return
    sample = int((expected != lengths).nonzero()[0])
    raise ValueError(
        f"token_sets: keys of one set need the same lengths, but sample {sample} has {int(expected[sample])} values of "
        f"{first!r} and {int(lengths[sample])} of {key!r}"
    )


def _narrow(key: str, ids: Tensor, num_embeddings: int | None) -> Tensor:
    if num_embeddings is not None and len(ids):
        low, high = (int(x) for x in torch.aminmax(ids))
        if low < 0 or high >= num_embeddings:
            raise ValueError(f"{key}: expected ids from 0 to {num_embeddings - 1}, got {low if low < 0 else high}")
    return narrow(ids, num_embeddings)
