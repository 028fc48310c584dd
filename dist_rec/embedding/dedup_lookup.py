"""The lookup of distinct ids, deduplication before it on the device, and the outputs made of its rows.

The modules are leaves for pipelines and torch.fx; `look_up` is traced.

Legend: B samples, N values of one key, U distinct ones, D row width.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from dist_rec.data.unique_features import UniqueFeatures
from dist_rec.kernels.gather_pool import Mode, expand, pool


def collection_name(width: int) -> str:
    """Name of the collection of all tables with this row width."""
    return f"dim_{width}"


def collections_by_width(tables: Iterable[EmbeddingConfig]) -> nn.ModuleDict:
    """One `EmbeddingCollection` per row width (it supports a single width), by name, on the meta device."""
    members: dict[str, list[EmbeddingConfig]] = {}
    for table in tables:
        members.setdefault(collection_name(table.embedding_dim), []).append(table)
    meta = torch.device("meta")
    return nn.ModuleDict({name: EmbeddingCollection(tables=of, device=meta) for name, of in members.items()})


def look_up(collections: nn.ModuleDict, unique: KeyedJaggedTensor) -> dict[str, Any]:
    """Distinct ids -> collection -> its output: rows by name of the embedding, or an awaitable of them.

    torch.fx can trace this, also with sharded collections."""
    return {name: collection(unique) for name, collection in collections.items()}


class UniqueOnDevice(nn.Module):
    """`KeyedJaggedTensor` -> `UniqueFeatures`, on its device. As a module, a pipeline can run it ahead."""

    def forward(self, features: KeyedJaggedTensor) -> UniqueFeatures:
        return UniqueFeatures.on_device(features)


class RebuildSequences(nn.Module):
    """Distinct rows and their features -> a `JaggedTensor` per embedding name. A leaf for torch.fx.

    `pairs`: (embedding name, key of the features).
    """

    def __init__(self, pairs: list[tuple[str, str]], need_indices: bool) -> None:
        super().__init__()
        self.pairs, self.need_indices = pairs, need_indices

    def forward(self, rows: dict[str, JaggedTensor], features: UniqueFeatures) -> dict[str, JaggedTensor]:
        rows = _arrived(rows)
        return {
            name: JaggedTensor(
                values=expand(rows[name].values(), features.inverse_of(key), segments=features.segments_of(key)),
                lengths=features.lengths_of(key),
                weights=features.values_of(key) if self.need_indices else None,
            )
            for name, key in self.pairs
        }


def _arrived(rows: dict[str, JaggedTensor]) -> dict[str, JaggedTensor]:
    """Waits for the output of a sharded collection."""
    try:
        return {name: rows[name] for name in rows.keys()}  # noqa: SIM118 - an awaitable has no other methods
    except RuntimeError as error:
        if "storage of size 0" not in str(error):
            raise
        raise RuntimeError(
            "a pipeline with clear_data_dist_inputs=True has freed lengths that a sharded EmbeddingCollection still "
            "reads, and deduplicated tables are sharded as one: expected clear_data_dist_inputs=False"
        ) from error


# Name of the pooled embedding, name of its collection, name of its rows there, key of the features, row width, pooling.
Bag = tuple[str, str, str, str, int, Mode]


class PoolBags(nn.Module):
    """Distinct rows by collection and their features -> pooled rows. A leaf for torch.fx.

    A mean rounds as in the wrapped collection: torch divides, FBGEMM (`sharded`) multiplies the sum by 1 / length. With
    row-wise sharding the rounding differs, since the plain collection adds partial sums of the ranks."""

    def __init__(self, bags: list[Bag]) -> None:
        super().__init__()
        self.bags = bags

    def forward(self, rows: dict[str, dict[str, JaggedTensor]], features: UniqueFeatures, sharded: bool) -> KeyedTensor:
        rows = {home: _arrived(found) for home, found in rows.items()}
        pooled: list[Tensor] = []
        for _, home, row_name, key, _, mode in self.bags:
            by_reciprocal = sharded and mode == "mean"
            bags = pool(
                rows[home][row_name].values(),
                features.inverse_of(key),
                features.offsets_of(key),
                mode="sum" if by_reciprocal else mode,
                segments=features.segments_of(key),
            )
            lengths = features.lengths_of(key)
            pooled.append(bags * (1.0 / lengths.clamp(min=1)).to(bags.dtype)[:, None] if by_reciprocal else bags)
        return KeyedTensor([bag[0] for bag in self.bags], [bag[4] for bag in self.bags], torch.cat(pooled, dim=1))
