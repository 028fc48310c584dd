"""Host-side dedup: the distinct tokens of a batch, and the token of every event.

A token is the tuple of ids of one event. Everything later (transfer, lookup, all-to-all) handles the U unique tokens;
the N events keep only an index into them. Legend: N events, U unique tokens, F fields.

A hash table in C++ (`_host.cpp`, built by setup.py) numbers tokens in order of first occurrence. Without it, pyarrow's
dictionary encoding gives the same numbers more slowly, which is logged once."""

import functools
import logging
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_rec.kernels.unique_ids import BitPackedIndex, index_bits, pack_index, unpack_index
from dist_rec.kernels.unique_ids.bit_packed import num_words

MAX_TOKENS = 2**31 - 1

_log = logging.getLogger("dist_rec.data")


@dataclass(frozen=True)
class DistinctRows:
    """`columns[f][inverse] == original column f`, for every field f."""

    columns: list[NDArray]  # per field: (U,) int64; without dedup as they came
    inverse: NDArray[np.int32]  # (N,) int32


def unique_tokens(columns: list[NDArray]) -> DistinctRows:
    """Distinct rows of parallel integer columns in order of first occurrence, with the inverse index.

    The result depends only on the values and their order, not on workers, ranks or the implementation.

    Args:
        columns: per field (N,), any integers that fit int64.

    Raises:
        ValueError: columns of different lengths, none at all, or 2^31 - 1 tokens or more.
    """
    if not columns:
        raise ValueError("unique_tokens needs at least one column")
    lengths = {len(column) for column in columns}
    if len(lengths) > 1:
        raise ValueError(f"columns of one feature set must have the same length, got {[len(c) for c in columns]}")
    if len(columns[0]) >= MAX_TOKENS:
        raise ValueError(f"one batch may hold fewer than {MAX_TOKENS} tokens, got {len(columns[0])}")
    host = native()
    if host is None:
        return unique_by_pyarrow([column.astype(np.int64) for column in columns])
    return _unique_by_hash(host, [np.ascontiguousarray(column, dtype=_hashed_as(column.dtype)) for column in columns])


def every_token(columns: list[NDArray]) -> DistinctRows:
    """No dedup: every event is a token of its own."""
    return DistinctRows(columns, np.arange(len(columns[0]), dtype=np.int32))


def pack_inverse(inverse: Tensor, num_tokens: int) -> BitPackedIndex:
    """An inverse index (N,) int32 in host memory in ceil(log2 U) bits per event. Values must be in [0, num_tokens)."""
    host = native()
    if host is None:
        return pack_index(inverse, num_tokens)
    count, bits = len(inverse), index_bits(num_tokens)
    words = torch.empty(num_words(count, bits), dtype=torch.int32)
    host.pack_bits(inverse.contiguous().numpy(), count, words.numpy(), len(words), bits)
    return BitPackedIndex(words, bits, count)


def unpack_inverse(packed: BitPackedIndex) -> Tensor:
    """(N,) int32 of a packed index in host memory."""
    host = native()
    if host is None:
        return unpack_index(packed)
    index = torch.empty(len(packed), dtype=torch.int32)
    host.unpack_bits(packed.words.numpy(), len(packed.words), index.numpy(), len(packed), packed.bits)
    return index


@functools.cache
def native() -> ModuleType | None:
    """The C++ module, or None where it was not built, which is logged once per process."""
    try:
        return import_module("dist_rec.data._host")
    except ImportError as error:
        _log.warning(
            "dedup: the C++ extension is not built (%s), so pyarrow deduplicates, more slowly; reinstall dist-rec with "
            "a C++17 compiler and Python's headers in reach",
            error,
        )
        return None


def _hashed_as(kind: np.dtype) -> np.dtype:
    """Integers keep their width: the hash of narrow ones is exact, and needs no comparison."""
    return kind if kind.kind == "i" or (kind.kind == "u" and kind.itemsize < 8) else np.dtype(np.int64)


def _unique_by_hash(host: ModuleType, columns: list[NDArray]) -> DistinctRows:
    count = len(columns[0])
    # Room for all tokens; pages that are not written take no memory.
    unique = tuple(np.empty(count, np.int64) for _ in columns)
    inverse = np.empty(count, np.int32)
    found = host.unique_tokens(tuple(columns), unique, inverse, count)
    return DistinctRows([column[:found] for column in unique], inverse)


def unique_by_pyarrow(columns: list[NDArray[np.int64]]) -> DistinctRows:
    """`unique_tokens` by pyarrow. It adds one field at a time to the index so far: every key is below 2^62."""
    unique, inverse = _encode(columns[0])
    rows = [unique]
    for column in columns[1:]:
        values, codes = _encode(column)
        pairs, inverse = _encode(inverse.astype(np.int64) * len(values) + codes)
        before, now = np.divmod(pairs, len(values)) if len(values) else (pairs, pairs)
        rows = [field[before] for field in rows] + [values[now]]
    return DistinctRows(rows, inverse)


def _encode(column: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    encoded = pa.array(column).dictionary_encode()
    return encoded.dictionary.to_numpy(), encoded.indices.to_numpy()
