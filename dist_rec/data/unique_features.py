"""A `KeyedJaggedTensor` without repetition, made by `DedupLoader` and looked up by the dedup collections.

Other readers, such as a model that builds its mask from lengths or a collection that is not wrapped, can use it like a
`KeyedJaggedTensor`: every public method returns what the original returns.

Legend: B samples, N values of one key, U distinct ones, F keys.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from dist_rec.data.layout import FeatureSet
from dist_rec.data.transfer_buffer import TransferBuffer
from dist_rec.data.unique_tokens import UniqueTokens, deduplicate
from dist_rec.kernels.unique_ids import BitPackedIndex, Segments, unique_ids_bounded, unpack_index


@dataclass(frozen=True, eq=False, repr=False)
class UniqueFeatures(UniqueTokens):
    """Distinct ids of every key and their inverse index, with the methods of the original `KeyedJaggedTensor`.

    Its own methods are about one key (`ids_of`, `inverse_of`, `lengths_of`, `offsets_of`). The public methods of a
    `KeyedJaggedTensor` (`values()`, `lengths()`, `to_dict()`, `permute()`, `["key"]` and so on) return what the
    original returns. The first method that needs the repeated values makes them, on the device of the ids, and keeps
    them. It is no instance of `KeyedJaggedTensor`, and methods that return a `KeyedJaggedTensor` return a plain one.

    - owners are the feature sets, each named after its first key. There is also `lengths.<feature set>` (B,) int32.
      `of` makes one buffer on the host, which `to` moves by one copy
    - `feature_sets`: keys that share an inverse index
    - `samples` B; `values_dtype` and `lengths_dtype` of the original
    - `segments` by feature set, if the order of its inverse index is known
    - `plain_bytes`: bytes of the original
    """

    feature_sets: tuple[FeatureSet, ...]
    samples: int
    values_dtype: torch.dtype
    lengths_dtype: torch.dtype
    plain_bytes: int
    segments: dict[str, Segments] | None = None

    @classmethod
    def of(
        cls,
        features: KeyedJaggedTensor,
        feature_sets: Sequence[Sequence[str]] = (),
        num_embeddings: Mapping[str, int] | None = None,
        *,
        pin_memory: bool = False,
    ) -> "UniqueFeatures":
        """Deduplicates on the host.

        Args:
            features: in host memory, int32 or int64 values, any ids.
            feature_sets: keys to deduplicate together; every other key is a set of its own.
            num_embeddings: key -> upper limit of its ids, which decides their integer type; without it, the largest
                id of the batch decides.

        Raises:
            ValueError: weights, strides that differ between keys, repeated keys, values that are not ids or not in host
                memory, a missing key or a key in two sets, lengths that differ within a set.
        """
        check_supported(features)
        if features.device().type != "cpu":
            raise ValueError(
                f"expected features in host memory, got them on {features.device()}; deduplicate before they are "
                "moved, or where they are, by a collection with dedup='device'"
            )
        found = complete_sets(features.keys(), feature_sets)
        by_key = _by_key(features)
        sizes = {key: (num_embeddings or {}).get(key) for key in by_key}
        columns = {of.name: [by_key[key].values().numpy() for key in of.keys] for of in found}
        for of in found:
            _check_same_lengths({key: by_key[key].lengths() for key in of.keys})
        tokens = deduplicate(columns, {of.name: of for of in found}, sizes)
        lengths = {f"lengths.{of.name}": by_key[of.name].lengths().int() for of in found}
        buffer = TransferBuffer.of({**lengths, **tokens.tensors}, pin_memory=pin_memory)
        return cls._made_of(features, replace(tokens, tensors=buffer), found)

    @classmethod
    def on_device(cls, features: KeyedJaggedTensor) -> "UniqueFeatures":
        """Deduplicates every key on the device of the features, by sorting. The host waits once, for the numbers of
        distinct ids. Raises ValueError for weights, strides that differ between keys, repeated keys and values that are
        not ids."""
        check_supported(features)
        by_key = _by_key(features)
        bounded = {key: unique_ids_bounded(jagged.values()) for key, jagged in by_key.items()}
        # Host sync: the shapes of all tensors below.
        counts = torch.stack([found.count for found in bounded.values()]).tolist()
        num_unique = dict(zip(bounded, counts, strict=True))
        tensors = {f"ids.{key}": of.values[: num_unique[key]] for key, of in bounded.items()}
        tensors |= {f"inverse.{key}": of.inverse for key, of in bounded.items()}
        tensors |= {f"lengths.{key}": jagged.lengths().int() for key, jagged in by_key.items()}
        tensors["unique"] = torch.tensor(counts, dtype=torch.int32, device=features.device())
        segments = {
            key: Segments(of.segments.order, of.segments.offsets[: num_unique[key] + 1]) for key, of in bounded.items()
        }
        totals = {key: len(of.inverse) for key, of in bounded.items()}
        tokens = UniqueTokens(tensors, num_unique, bits={}, counts=totals)
        return cls._made_of(features, tokens, [FeatureSet(key, (key,)) for key in by_key], segments)

    @classmethod
    def _made_of(
        cls,
        features: KeyedJaggedTensor,
        tokens: UniqueTokens,
        feature_sets: Sequence[FeatureSet],
        segments: dict[str, Segments] | None = None,
    ) -> "UniqueFeatures":
        return cls(
            **vars(tokens),
            feature_sets=tuple(feature_sets),
            samples=features.stride(),
            values_dtype=features.values().dtype,
            lengths_dtype=features.lengths().dtype,
            plain_bytes=features.values().nbytes + features.lengths().nbytes,
            segments=segments,
        )

    @cached_property
    def plain(self) -> KeyedJaggedTensor:
        """The original: stride B, the N values of each key, in tensors of its own."""
        return KeyedJaggedTensor(
            keys=self.keys(),
            values=torch.cat([self.values_of(key) for key in self]),
            lengths=self.lengths(),
            stride=self.samples,
            length_per_key=[self.counts[self._set_of[key]] for key in self],
        )

    def keys(self) -> list[str]:
        return list(self.num_unique)

    def stride(self) -> int:
        return self.samples

    def device(self) -> torch.device:
        return self.tensors["unique"].device

    def lengths(self) -> Tensor:
        """(F B,) in the dtype of the original's lengths."""
        return torch.cat([self.lengths_of(key) for key in self])

    def clear_storage(self) -> int:
        """Frees the repeated values if they exist; the next use makes them again."""
        plain = vars(self).pop("plain", None)
        return 0 if plain is None else plain.clear_storage()

    def copy_(self, source: Any, non_blocking: bool = False) -> "UniqueFeatures":
        raise TypeError("UniqueFeatures cannot be written to: expected a KeyedJaggedTensor, such as its `plain`")

    def __getattr__(self, name: str) -> Any:
        if name in _PLAIN:
            return getattr(self.plain, name)
        raise AttributeError(f"neither UniqueFeatures nor the KeyedJaggedTensor it stands for has {name!r}")

    def __getitem__(self, key: str) -> JaggedTensor:
        if key not in self.num_unique:
            raise KeyError(f"no key {key!r} in the features; there are: {', '.join(self)}")
        return self.plain[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.num_unique)

    def __len__(self) -> int:
        return len(self.num_unique)

    def __bool__(self) -> bool:
        return True  # as the KeyedJaggedTensor, also without keys

    def __repr__(self) -> str:
        counts, distinct = self.counts, self.num_unique
        keys = ", ".join(f"{key}: {counts[self._set_of[key]]} values, {distinct[key]} distinct" for key in self)
        return f"UniqueFeatures({self.samples} samples on {self.device()}; {keys})"

    def inverse_of(self, key: str) -> Tensor | BitPackedIndex:
        """(N,) the index of each value among the distinct values of its key, see `UniqueTokens.inverse`."""
        return self._inverses[self._set_of[key]]

    def segments_of(self, key: str) -> Segments | None:
        return None if self.segments is None else self.segments[self._set_of[key]]

    def lengths_of(self, key: str) -> Tensor:
        """(B,) in the dtype of the original's lengths."""
        return self._lengths(key).to(self.lengths_dtype)

    def offsets_of(self, key: str) -> Tensor:
        """(B + 1,) int32 prefix sums of the lengths."""
        return torch.nn.functional.pad(self._lengths(key).cumsum(0, dtype=torch.int32), (1, 0))

    def values_of(self, key: str) -> Tensor:
        """(N,) ids with their repetitions, in the dtype of the original's values."""
        inverse = self.inverse_of(key)
        whole = inverse if isinstance(inverse, Tensor) else unpack_index(inverse)
        return self.ids_of(key).to(self.values_dtype)[whole]

    def to(
        self, device: torch.device, non_blocking: bool = False, dtype: torch.dtype | None = None
    ) -> "UniqueFeatures":
        """`dtype` has no effect: in a `KeyedJaggedTensor` it is the dtype of weights."""
        return super().to(device, non_blocking)

    def record_stream(self, stream: torch.Stream) -> None:
        super().record_stream(stream)
        for of in (self.segments or {}).values():
            for tensor in (of.order, of.offsets):
                tensor.record_stream(stream)  # pyright: ignore[reportArgumentType] - as in UniqueTokens
        for name in {"deduplicated", "plain"} & vars(self).keys():  # those that exist
            vars(self)[name].record_stream(stream)

    def _map(self, move: Callable[[Tensor], Tensor]) -> "UniqueFeatures":
        return replace(super()._map(move), segments=None)

    def _lengths(self, key: str) -> Tensor:
        return self.tensors[f"lengths.{self._set_of[key]}"]

    @cached_property
    def _inverses(self) -> dict[str, Tensor | BitPackedIndex]:
        return {of.name: self.inverse(of.name) for of in self.feature_sets}

    @cached_property
    def _set_of(self) -> dict[str, str]:
        return {key: of.name for of in self.feature_sets for key in of.keys}


# Attributes that `UniqueFeatures` takes from `plain`: public methods of a KeyedJaggedTensor, and the fields that
# TorchRec's own functions read, named after the arguments of its constructor.
_PLAIN = frozenset(name for name in dir(KeyedJaggedTensor) if not name.startswith("_")) - set(dir(UniqueFeatures))
_PLAIN |= {f"_{name}" for name in inspect.signature(KeyedJaggedTensor.__init__).parameters if name != "self"} | {
    "_key_indices"
}


def why_not(features: KeyedJaggedTensor) -> str:
    """The part of these features that deduplication would lose, as a sentence; empty if there is none."""
    if features.weights_or_none() is not None:
        return "features have weights, which belong to single values and cannot be deduplicated with them"
    if features.variable_stride_per_key() or features.inverse_indices_or_none() is not None:
        return f"features have a stride per key ({features.stride_per_key()}): whole samples are deduplicated already"
    if repeated := [key for key, times in Counter(features.keys()).items() if times > 1]:
        return f"features have a key more than once ({', '.join(repeated)}), of which one would stay"
    return ""


def check_supported(features: KeyedJaggedTensor) -> None:
    """Raises ValueError for weights, strides that differ between keys, repeated keys, and values that are not ids."""
    if reason := why_not(features):
        raise ValueError(
            f"{reason}; expected every key once, one stride for all, no weights and no inverse_indices, or leave these "
            "features as they are, for a collection that is not wrapped"
        )
    if features.values().dtype not in (torch.int32, torch.int64):
        raise ValueError(f"expected ids as values, int32 or int64, got {features.values().dtype}")


def complete_sets(keys: Sequence[str], feature_sets: Sequence[Sequence[str]]) -> list[FeatureSet]:
    """The given feature sets, then one for every other key, each named after its first key.

    Raises ValueError for an unknown or repeated key, and for a set without keys."""
    named = [key for of in feature_sets for key in of]
    for key in named:
        if key not in keys:
            raise ValueError(f"feature_sets: no key {key!r} in the features; there are: {', '.join(keys)}")
        if named.count(key) > 1:
            raise ValueError(f"feature_sets: expected every key in one set, got {key!r} more than once")
    if not all(feature_sets):
        raise ValueError(f"feature_sets: a set needs at least one key, got {[list(of) for of in feature_sets]}")
    every = [*(tuple(of) for of in feature_sets), *((key,) for key in keys if key not in named)]
    return [FeatureSet(of[0], of) for of in every]


def _by_key(features: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
    """Not by `to_dict`: what it finds stays in the features, and goes along as it is when they move to a device."""
    keys = features.keys()
    values = features.values().split(features.length_per_key())
    lengths = features.lengths().view(len(keys), features.stride())
    return {key: JaggedTensor(values=of, lengths=lengths[place]) for place, (key, of) in enumerate(zip(keys, values))}


def _check_same_lengths(lengths: dict[str, Tensor]) -> None:
    """Raises ValueError unless the keys of a set have the same lengths (B,)."""
    first, expected = next(iter(lengths.items()))
    for key, got in lengths.items():
        if not torch.equal(expected, got):
            sample = int((expected != got).nonzero()[0])
            raise ValueError(
                f"feature_sets: keys of one set need the same lengths, but sample {sample} has {int(expected[sample])} "
                f"values of {first!r} and {int(got[sample])} of {key!r}"
            )
