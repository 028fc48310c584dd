"""TorchRec's collections over deduplicated features: same outputs, same checkpoints, unique ids alone looked up and sent.

    model.ec = DedupEmbeddingCollection(model.ec)      # before sharding
    batches = DedupLoader(loader)                      # host side

The wrapped collection stays an ordinary one inside, so stock sharders shard it and `TrainPipelineSparseDist` pipelines it:
what it is called with is an attribute of what came in the batch, which that pipeline's tracer can follow.

Legend: B samples, N values of one key, U distinct ones, D row width.
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import BaseEmbeddingConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import (
    EmbeddingBagCollection,
    EmbeddingCollection,
    get_embedding_names_by_table,
)
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from dist_rec.data.unique_features import UniqueFeatures
from dist_rec.kernels.gather_pool import Mode, expand, pool
from dist_rec.kernels.unique_ids import unpack_index

Where = Literal["host", "device"]


class _DedupCollection(nn.Module):
    """What both wrappers share: where features are deduplicated, and state under the names of the wrapped collection.

    `places`: (name of a table's state here, its name in the wrapped collection).
    """

    def __init__(self, dedup: Where, places: list[tuple[str, str]]) -> None:
        super().__init__()
        if dedup not in ("host", "device"):
            raise ValueError(f"dedup must be 'host' (batches of a DedupLoader) or 'device', got {dedup!r}")
        self.unique = UniqueOnDevice() if dedup == "device" else None
        self._places = places
        self.register_state_dict_post_hook(_rename_saved)
        self.register_load_state_dict_pre_hook(_rename_loaded)

    def _deduplicate(self, features: Any) -> Any:
        # Under torch.fx `features` is a proxy, of which only attributes may be asked.
        if self.unique is not None:
            return self.unique(features)
        if isinstance(features, KeyedJaggedTensor):
            raise TypeError(
                f"{type(self).__name__} expected UniqueFeatures, got a KeyedJaggedTensor; wrap the loader in DedupLoader, or "
                "deduplicate on the device with dedup='device'"
            )
        return features


class DedupEmbeddingCollection(_DedupCollection):
    """An `EmbeddingCollection` that looks every distinct id up once.

    Forward: `UniqueFeatures` (from `DedupLoader`) -> dict of embedding name -> `JaggedTensor`, with values (N, D), lengths (B,)
    and, with `need_indices`, the ids as weights: what the wrapped collection gives for the plain features, bit for bit.
    State dicts have the keys of the wrapped collection; sharding plans name it `<path>.collection`, fused optimizer
    states `<path>.collection.embeddings...`.

    Args:
        collection: to be sharded with the model around it; its parameters are taken over.
        dedup: `host` takes what a `DedupLoader` made. `device` takes plain `KeyedJaggedTensor`s and sorts them where they are,
            before the all-to-all; for `TrainPipelineSparseDist` to do that ahead, too, give it `pipeline_postproc=True`.

    Raises:
        TypeError: (forward) a plain `KeyedJaggedTensor` with `dedup="host"`.
        ValueError: (forward) features with weights or a stride per key, with `dedup="device"`.
    """

    def __init__(self, collection: EmbeddingCollection, dedup: Where = "host") -> None:
        tables = [table.name for table in collection.embedding_configs()]
        super().__init__(dedup, [(f"collection.embeddings.{name}.", f"embeddings.{name}.") for name in tables])
        self.collection = collection
        names = zip(collection.embedding_names_by_table(), collection.embedding_configs(), strict=True)
        pairs = [pair for of_table, table in names for pair in zip(of_table, table.feature_names, strict=True)]
        self.rebuild = RebuildSequences(pairs, collection.need_indices())

    def forward(self, features: UniqueFeatures | KeyedJaggedTensor) -> dict[str, JaggedTensor]:
        unique = self._deduplicate(features)
        return self.rebuild(self.collection(unique.deduplicated), unique)


class DedupEmbeddingBagCollection(_DedupCollection):
    """An `EmbeddingBagCollection` that looks every distinct id up once and pools on this rank, straight from distinct rows.

    Forward: `UniqueFeatures` (from `DedupLoader`) -> `KeyedTensor` (B, sum of D), as the wrapped collection gives. The tables
    are held, and sharded, as `EmbeddingCollection`s, one per row width, under `<path>.collections.dim_<width>`; state dicts
    have the keys of the wrapped collection. Weights survive sharding, as those of an `EmbeddingCollection` do; a plain bag
    collection that stands on a CPU draws new ones then (TorchRec 1.8.0). Between ranks there travel distinct rows instead of
    pooled ones: fewer bytes where samples share their ids, more where bags are long and all different.

    Args:
        collection, dedup: as in `DedupEmbeddingCollection`.

    Raises:
        ValueError: a weighted collection, or another pooling than sum and mean. Forward: as `DedupEmbeddingCollection`.
    """

    def __init__(self, collection: EmbeddingBagCollection, dedup: Where = "host") -> None:
        configs = collection.embedding_bag_configs()
        homes = {table.name: f"dim_{table.embedding_dim}" for table in configs}
        places = [(f"collections.{homes[t.name]}.embeddings.{t.name}.", f"embedding_bags.{t.name}.") for t in configs]
        super().__init__(dedup, places)
        if collection.is_weighted():
            raise ValueError("a weighted EmbeddingBagCollection cannot be deduplicated: weights belong to single values")
        self.collections = nn.ModuleDict()
        bags: list[Bag] = []
        for home in dict.fromkeys(homes.values()):
            members = [table for table in configs if homes[table.name] == home]
            inner = EmbeddingCollection(tables=[_unpooled(table) for table in members], device=torch.device("meta"))
            for table in members:
                inner.embeddings[table.name].weight = collection.embedding_bags[table.name].weight
            # Sharding copies the weights only of a collection that does not say it is on the meta device.
            inner._device = collection.device
            self.collections[home] = inner
        for table, names in zip(configs, get_embedding_names_by_table(configs), strict=True):
            inner = self.collections[homes[table.name]]
            assert isinstance(inner, EmbeddingCollection)
            here = [t.name for t in inner.embedding_configs()].index(table.name)
            inner_names = inner.embedding_names_by_table()[here]
            for name, row_name, key in zip(names, inner_names, table.feature_names, strict=True):
                bags.append((name, homes[table.name], row_name, key, table.embedding_dim, _mode(table.name, table.pooling)))
        self.pool_bags = PoolBags(bags)

    def forward(self, features: UniqueFeatures | KeyedJaggedTensor) -> KeyedTensor:
        unique = self._deduplicate(features)
        rows = {home: collection(unique.deduplicated) for home, collection in self.collections.items()}
        sharded = not any(isinstance(collection, EmbeddingCollection) for collection in self.collections.values())
        return self.pool_bags(rows, unique, sharded)


class UniqueOnDevice(nn.Module):
    """`KeyedJaggedTensor` -> `UniqueFeatures`, where it is; a module of its own, for the pipeline to run ahead."""

    def forward(self, features: KeyedJaggedTensor) -> UniqueFeatures:
        return UniqueFeatures.on_device(features)


class RebuildSequences(nn.Module):
    """Distinct rows and the features they belong to -> a `JaggedTensor` per embedding name. A leaf to torch.fx.

    `pairs`: (embedding name, key of the features).
    """

    def __init__(self, pairs: list[tuple[str, str]], need_indices: bool) -> None:
        super().__init__()
        self.pairs, self.need_indices = pairs, need_indices

    def forward(self, rows: dict[str, JaggedTensor], features: UniqueFeatures) -> dict[str, JaggedTensor]:
        return {
            name: JaggedTensor(
                values=expand(rows[name].values(), features.inverse(key), segments=features.segments_of(key)),
                lengths=features.lengths(key),
                weights=_expanded_ids(features, key) if self.need_indices else None,
            )
            for name, key in self.pairs
        }


# Name of the pooled embedding, name of its collection, name of its rows there, key of the features, row width, pooling.
Bag = tuple[str, str, str, str, int, Mode]


class PoolBags(nn.Module):
    """Distinct rows by collection and the features they belong to -> pooled rows. A leaf to torch.fx.

    A mean rounds as that of the wrapped collection: torch divides, FBGEMM (`sharded`) multiplies the sum by 1 / length. Only
    row-wise sharding is different: there the plain collection adds partial sums of the ranks.
    """

    def __init__(self, bags: list[Bag]) -> None:
        super().__init__()
        self.bags = bags

    def forward(self, rows: dict[str, dict[str, JaggedTensor]], features: UniqueFeatures, sharded: bool) -> KeyedTensor:
        pooled: list[Tensor] = []
        for _, home, row_name, key, _, mode in self.bags:
            by_reciprocal = sharded and mode == "mean"
            bags = pool(
                rows[home][row_name].values(),
                features.inverse(key),
                features.offsets(key),
                mode="sum" if by_reciprocal else mode,
                segments=features.segments_of(key),
            )
            pooled.append(bags * (1.0 / features.lengths(key).clamp(min=1)).to(bags.dtype)[:, None] if by_reciprocal else bags)
        return KeyedTensor([bag[0] for bag in self.bags], [bag[4] for bag in self.bags], torch.cat(pooled, dim=1))


def _unpooled(table: Any) -> EmbeddingConfig:
    """The same table without its pooling."""
    return EmbeddingConfig(**{field.name: getattr(table, field.name) for field in fields(BaseEmbeddingConfig)})


def _mode(table: str, pooling: PoolingType) -> Mode:
    if pooling is PoolingType.SUM:
        return "sum"
    if pooling is PoolingType.MEAN:
        return "mean"
    raise ValueError(f"table {table}: expected sum or mean pooling, got {pooling}")


def _expanded_ids(features: UniqueFeatures, key: str) -> Tensor:
    inverse = features.inverse(key)
    return features.ids(key)[inverse if isinstance(inverse, Tensor) else unpack_index(inverse)]


def _rename_saved(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    assert isinstance(module, _DedupCollection)
    _rename(state, prefix, module._places)


def _rename_loaded(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    assert isinstance(module, _DedupCollection)
    _rename(state, prefix, [(outer, inner) for inner, outer in module._places])


def _rename(state: dict[str, Any], prefix: str, places: Sequence[tuple[str, str]]) -> None:
    for old, new in places:
        for key in [key for key in state if key.startswith(prefix + old)]:
            state[prefix + new + key[len(prefix + old) :]] = state.pop(key)
