"""Attributes of the distinct ids of a batch: they cross to the device once per id, never per event.

Legend: U distinct ids of one key, N elements of its owners.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_rec.data.attribute_store import AttributeStore
from dist_rec.data.attributes import AttributeField
from dist_rec.data.columns import FlatLists, Ints
from dist_rec.data.dedup import unpack_inverse
from dist_rec.data.kinds import attributes_of_keys
from dist_rec.data.reading import narrow
from dist_rec.data.schema import Schema
from dist_rec.data.unique_tokens import UniqueTokens
from dist_rec.kernels.unique_ids import BitPackedIndex


@dataclass(frozen=True)
class Joined:
    """- `tensors` `attribute.<key>.<name>` (U,) float32, NaN where it is missing, or a bucket, or (U, dim) float16; of
      lists `lengths.<key>.<name>` (U,) int32
    - `ids` "<key>.<name>" -> the ids of all lists, one list after the other
    - `plain_bytes`: what all elements would take, each with its own attributes
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    ids: dict[str, NDArray] = field(default_factory=dict)
    plain_bytes: int = 0


def join_attributes(tokens: UniqueTokens, schema: Schema, store: AttributeStore | None) -> Joined:
    """Without a store they are missing: as if no id had any."""
    tensors: dict[str, Tensor] = {}
    found: dict[str, NDArray] = {}
    plain_bytes = 0
    for key, attributes in attributes_of_keys(schema).items():
        ids, table = tokens.ids_of(key).numpy(), schema.layout.tables[key]
        times = _times(tokens, schema, key)
        for name, of in attributes.items():
            if of.list is None:
                tensors[f"attribute.{key}.{name}"] = _values(of, table, name, ids, store)
                plain_bytes += int(times.sum()) * (4 if of.vector is None else 2 * of.vector)
                continue
            lists = FlatLists(ids[:0], np.zeros(len(ids), np.int64))
            if store is not None:
                lists = store.lists(table, name, ids)
            found[f"{key}.{name}"] = lists.values
            tensors[f"lengths.{key}.{name}"] = torch.from_numpy(lists.lengths.astype(np.int32))
            plain_bytes += int(times @ (8 * lists.lengths + 4))
    return Joined(tensors, found, plain_bytes)


def _values(of: AttributeField, table: str, name: str, ids: Ints, store: AttributeStore | None) -> Tensor:
    if of.vector is not None:
        if store is None:
            return torch.zeros(len(ids), of.vector, dtype=torch.float16)
        return torch.from_numpy(store.vectors(table, name, ids))
    assert of.number is not None, "an attribute is one of three"
    missing = np.full(len(ids), np.nan, np.float32)
    values = missing if store is None else store.numbers(table, name, ids)
    if of.number.num_buckets is None:
        return torch.from_numpy(values)
    return narrow(of.number.buckets_of(values), of.number.num_buckets)


def _times(tokens: UniqueTokens, schema: Schema, key: str) -> Ints:
    """(U,) how many elements have each of the distinct ids of a key."""
    found = np.zeros(tokens.num_unique[key], np.int64)
    for owner, of in schema.layout.owners.items():
        if key in of.keys and owner in tokens.counts:
            packed = BitPackedIndex(tokens.tensors[f"inverse.{owner}"], tokens.bits[owner], tokens.counts[owner])
            found += np.bincount(unpack_inverse(packed).numpy(), minlength=len(found))
    return found
