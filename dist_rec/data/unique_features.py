"""A `KeyedJaggedTensor` without repetition: what `DedupLoader` puts in its place and the dedup collections look up.

Whoever else reads it, such as a model that builds its mask from lengths or a collection that is not wrapped, finds a
`KeyedJaggedTensor` there: every public method of one answers as the original would.

Legend: B samples, N values of one key, U distinct ones, F keys. Keys of one **token set** have equal lengths in every sample
and are deduplicated together, so that they share an inverse index.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from dist_rec.data.dedup import pack_inverse, unique_tokens, unpack_inverse
from dist_rec.data.wire import Packet, narrow, widen
from dist_rec.kernels.unique_ids import BitPackedIndex, Segments, unique_ids_bounded, unpack_index


@dataclass(frozen=True)
class TokenSet:
    """Keys deduplicated together: their values per key (`count`), distinct ones (`num_unique`), bits of the inverse index."""

    keys: tuple[str, ...]
    count: int
    num_unique: int
    bits: int


@dataclass(eq=False, repr=False)
class UniqueFeatures(Pipelineable):
    """Distinct ids of every key, and where they belong; in all else the `KeyedJaggedTensor` it was made of.

    Its own methods are about one key (`ids_of`, `inverse_of`, `lengths_of`, `offsets_of`). The public methods of a
    `KeyedJaggedTensor` (`values()`, `lengths()`, `to_dict()`, `permute()`, `["key"]` and so on) give what the original
    gives. The first that needs the repeated values makes them, where the ids are, and they are kept. `isinstance` still
    tells the two apart, and methods that give a whole `KeyedJaggedTensor` give a plain one.

    `tensors` has by name: `ids.<key>` (U,), `inverse.<set>` (N,) int32 or the words of a packed index, `lengths.<set>` (B,)
    int32, `unique` (F,) int32. Made by `of` it is one buffer on the host, which `to` moves by one copy.

    - `names` the keys in the order of the original; `sets` the token sets
    - `samples` B; `values_dtype` and `lengths_dtype` those of the original
    - `segments` per token set, where the order of its inverse index is known already
    - `plain_bytes`: bytes of the original
    """

    tensors: Packet | dict[str, Tensor]
    names: tuple[str, ...]
    sets: tuple[TokenSet, ...]
    samples: int
    values_dtype: torch.dtype
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
            ValueError: weights, strides that differ between keys, repeated keys, values that are not ids or not in host
                memory, a key that is not there or stands in two sets, lengths that differ within a set.
        """
        check_supported(features)
        if features.device().type != "cpu":
            raise ValueError(
                f"expected features in host memory, got them on {features.device()}; deduplicate before they are moved, or "
                "where they are, by a collection with dedup='device'"
            )
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
            names=tuple(features.keys()),
            sets=tuple(found),
            samples=features.stride(),
            values_dtype=features.values().dtype,
            lengths_dtype=features.lengths().dtype,
            plain_bytes=features.values().nbytes + features.lengths().nbytes,
        )

    @classmethod
    def on_device(cls, features: KeyedJaggedTensor) -> "UniqueFeatures":
        """Deduplicates every key on the device where the features are, by sorting. The host waits once, for the numbers of
        distinct ids. Raises ValueError for weights, strides that differ between keys, repeated keys and values that are not
        ids."""
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
            names=tuple(features.keys()),
            sets=tuple(sets),
            samples=features.stride(),
            values_dtype=features.values().dtype,
            lengths_dtype=features.lengths().dtype,
            plain_bytes=features.values().nbytes + features.lengths().nbytes,
            segments=segments,
        )

    @cached_property
    def deduplicated(self) -> KeyedJaggedTensor:
        """What is looked up: stride 1, the U ids of each key."""
        return KeyedJaggedTensor(
            keys=self.keys(),
            values=torch.cat([self.ids_of(key) for key in self.names]),
            # Pipelines may free the memory of what they sent; `tensors` is needed longer.
            lengths=self.tensors["unique"].clone(),
            stride=1,
            length_per_key=_per_key(self.names, self.sets),
        )

    @cached_property
    def plain(self) -> KeyedJaggedTensor:
        """The original: stride B, the N values of each key, in tensors of its own."""
        return KeyedJaggedTensor(
            keys=self.keys(),
            values=torch.cat([self.values_of(key) for key in self.names]),
            lengths=self.lengths(),
            stride=self.samples,
            length_per_key=[self.sets[self._set_of[key]].count for key in self.names],
        )

    def keys(self) -> list[str]:
        return list(self.names)

    def stride(self) -> int:
        return self.samples

    def device(self) -> torch.device:
        return self.tensors["unique"].device

    def lengths(self) -> Tensor:
        """(F B,) in the dtype of the original's lengths."""
        return torch.cat([self.lengths_of(key) for key in self.names])

    def clear_storage(self) -> int:
        """Frees the repeated values, where they were made; asked for again, they are made again."""
        plain = vars(self).pop("plain", None)
        return 0 if plain is None else plain.clear_storage()

    def copy_(self, source: Any, non_blocking: bool = False) -> "UniqueFeatures":
        raise TypeError("UniqueFeatures cannot be written to: expected a KeyedJaggedTensor, such as its `plain`")

    def __getattr__(self, name: str) -> Any:
        if name in _PLAIN:
            return getattr(self.plain, name)
        raise AttributeError(f"neither UniqueFeatures nor the KeyedJaggedTensor it stands for has {name!r}")

    def __getitem__(self, key: str) -> JaggedTensor:
        if key not in self.names:
            raise KeyError(f"no key {key!r} in the features; there are: {', '.join(self.names)}")
        return self.plain[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __bool__(self) -> bool:
        return True  # as the KeyedJaggedTensor, also without keys

    def __repr__(self) -> str:
        of = {key: self.sets[number] for key, number in self._set_of.items()}
        counts = ", ".join(f"{key}: {of[key].count} values, {of[key].num_unique} distinct" for key in self.names)
        return f"UniqueFeatures({self.samples} samples on {self.device()}; {counts})"

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # not what can be made again

    def inverse_of(self, key: str) -> Tensor | BitPackedIndex:
        """(N,) the place of each value among the distinct ones of its key; packed on a GPU if it came there packed."""
        return self._inverses[self._set_of[key]]

    def segments_of(self, key: str) -> Segments | None:
        return None if self.segments is None else self.segments[self._set_of[key]]

    def lengths_of(self, key: str) -> Tensor:
        """(B,) in the dtype of the original's lengths."""
        return self.tensors[f"lengths.{self._set_of[key]}"].to(self.lengths_dtype)

    def offsets_of(self, key: str) -> Tensor:
        """(B + 1,) int32 prefix sums of the lengths."""
        lengths = self.tensors[f"lengths.{self._set_of[key]}"]
        return torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))

    def ids_of(self, key: str) -> Tensor:
        """(U,) int64 distinct ids."""
        return widen(self.tensors[f"ids.{key}"])

    def values_of(self, key: str) -> Tensor:
        """(N,) ids with their repetitions, in the dtype of the original's values."""
        inverse = self.inverse_of(key)
        whole = inverse if isinstance(inverse, Tensor) else unpack_index(inverse)
        return self.ids_of(key).to(self.values_dtype)[whole]

    @property
    def nbytes(self) -> int:
        """Bytes that `to` moves."""
        tensors = self.tensors
        return tensors.nbytes if isinstance(tensors, Packet) else sum(tensor.nbytes for tensor in tensors.values())

    def to(self, device: torch.device, non_blocking: bool = False, dtype: torch.dtype | None = None) -> "UniqueFeatures":
        """`dtype` is that of weights, as for a `KeyedJaggedTensor`; there are none."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "UniqueFeatures":
        return self._map(lambda tensor: tensor.pin_memory())

    def record_stream(self, stream: torch.Stream) -> None:
        tensors = [self.tensors] if isinstance(self.tensors, Packet) else [*self.tensors.values()]
        tensors += [tensor for of in (self.segments or {}).values() for tensor in (of.order, of.offsets)]
        for tensor in tensors:
            tensor.record_stream(stream)  # pyright: ignore[reportArgumentType] - torch's stub wants its private base class
        for made in (self.__dict__.get("deduplicated"), self.__dict__.get("plain")):
            if made is not None:
                made.record_stream(stream)

    def _map(self, move: Callable[[Tensor], Tensor]) -> "UniqueFeatures":
        if isinstance(self.tensors, Packet):
            return replace(self, tensors=replace(self.tensors, buffer=move(self.tensors.buffer)))
        return replace(self, tensors={name: move(tensor) for name, tensor in self.tensors.items()}, segments=None)

    @cached_property
    def _inverses(self) -> list[Tensor | BitPackedIndex]:
        if isinstance(self.tensors, dict):
            return [self.tensors[f"inverse.{number}"] for number in range(len(self.sets))]
        packed = [BitPackedIndex(self.tensors[f"inverse.{i}"], of.bits, of.count) for i, of in enumerate(self.sets)]
        return [unpack_inverse(index) if index.device.type == "cpu" else index for index in packed]

    @cached_property
    def _set_of(self) -> dict[str, int]:
        return {key: number for number, of in enumerate(self.sets) for key in of.keys}


# What a KeyedJaggedTensor answers and is answered from `UniqueFeatures.plain`: its public methods, and the fields that
# TorchRec's own functions read, which are named after the arguments of its constructor.
_PLAIN = frozenset(name for name in dir(KeyedJaggedTensor) if not name.startswith("_")) - set(dir(UniqueFeatures))
_PLAIN |= {f"_{name}" for name in inspect.signature(KeyedJaggedTensor.__init__).parameters if name != "self"} | {"_key_indices"}


def why_not(features: KeyedJaggedTensor) -> str:
    """Why deduplication would lose a part of these features; empty where it would not."""
    if features.weights_or_none() is not None:
        return "features have weights, which belong to single values and cannot be deduplicated with them"
    if features.variable_stride_per_key() or features.inverse_indices_or_none() is not None:
        return f"features have a stride per key ({features.stride_per_key()}): whole samples are deduplicated already"
    if repeated := [key for key, times in Counter(features.keys()).items() if times > 1]:
        return f"features have a key more than once ({', '.join(repeated)}), of which one would stay"
    return ""


def check_supported(features: KeyedJaggedTensor) -> None:
    """Raises ValueError for what deduplication would lose (weights, strides that differ between keys, repeated keys) and for
    values that are not ids."""
    if reason := why_not(features):
        raise ValueError(
            f"{reason}; expected every key once, one stride for all, no weights and no inverse_indices, or leave these "
            "features as they are, for a collection that is not wrapped"
        )
    if features.values().dtype not in (torch.int32, torch.int64):
        raise ValueError(f"expected ids as values, int32 or int64, got {features.values().dtype}")


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
