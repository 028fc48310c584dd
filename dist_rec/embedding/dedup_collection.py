"""TorchRec's collections over deduplicated features: same outputs, names and checkpoints, from distinct ids only.

    model.ec = DedupEmbeddingCollection(model.ec)      # before sharding
    batches = DedupLoader(loader)                      # host side

The wrapper keeps an ordinary collection inside, so stock sharders shard it and `TrainPipelineSparseDist` pipelines it:
its input is an attribute of an object in the batch, which the tracer of the pipeline can follow.

Legend: B samples, N values of one key, U distinct ones, D row width.
"""

import warnings
from dataclasses import fields
from typing import Any, Literal, cast

import torch
from torch import nn
from torchrec.modules.embedding_configs import BaseEmbeddingConfig, EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection, get_embedding_names_by_table
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor, KeyedTensor

from dist_rec.data.unique_features import UniqueFeatures
from dist_rec.embedding.dedup_checks import check_collection, check_features
from dist_rec.embedding.dedup_lookup import (
    Bag,
    PoolBags,
    RebuildSequences,
    UniqueOnDevice,
    collection_name,
    collections_by_width,
    look_up,
)
from dist_rec.embedding.dedup_names import Renamed
from dist_rec.kernels.gather_pool import Mode

Where = Literal["host", "device"]


class _DedupCollection(Renamed):
    """Base of both wrappers: place of the deduplication, and errors about features and sharding."""

    def __init__(self, tables: str, homes: dict[str, str], keys: list[str], dedup: Where) -> None:
        super().__init__(tables, homes)
        if dedup not in ("host", "device"):
            raise ValueError(f"dedup must be 'host' (batches of a DedupLoader) or 'device', got {dedup!r}")
        self.unique = UniqueOnDevice() if dedup == "device" else None
        self._keys = list(dict.fromkeys(keys))
        self._told = False

    @property
    def device(self) -> torch.device:
        """Device of the tables, before sharding; sharded collections of TorchRec have no such attribute."""
        return cast(Any, self.held()[0]).device

    def reset_parameters(self) -> None:
        for collection in self.held():
            cast(Any, collection).reset_parameters()

    def _deduplicate(self, features: Any) -> Any:
        unsharded = any(isinstance(collection, EmbeddingCollection) for collection in self.held())
        if isinstance(features, torch.fx.Proxy):  # only its attributes exist
            if unsharded:
                raise TypeError(self._unsharded("cannot be traced by torch.fx, as TrainPipelineSparseDist does,"))
            return features if self.unique is None else self.unique(features)
        check_features(type(self).__name__, features, self._keys, on_device=self.unique is not None)
        if unsharded and self.training and not self._told and torch.distributed.is_initialized():
            self._told = True
            warnings.warn(self._unsharded("holds its tables whole, a copy on every rank,"), stacklevel=3)
        return features if self.unique is None else self.unique(features)

    def _unsharded(self, what: str) -> str:
        return (
            f"{type(self).__name__} {what} while it is not sharded. Expected DistributedModelParallel to shard what it "
            f"holds ({', '.join(self.holders())}) as EmbeddingCollection: sharders=[...] needs an "
            "EmbeddingCollectionSharder(), also where bags are wrapped (the default sharders have one), and a plan of "
            "your own an entry of that name"
        )


class DedupEmbeddingCollection(_DedupCollection):
    """An `EmbeddingCollection` that looks up every distinct id once.

    Forward: `UniqueFeatures` (from `DedupLoader`) -> dict of embedding name -> `JaggedTensor`, with values (N, D),
    lengths (B,) and, with `need_indices`, the ids as weights. The output equals the output of the wrapped collection
    for the plain features, bit for bit. State dicts, parameters and fused optimizer states have the names of the
    wrapped collection; sharding plans name it `<path>.collection`.

    Args:
        collection: the collection to wrap, with its parameters, before the model around it is sharded.
        dedup: `host` takes features of a `DedupLoader`. `device` takes plain `KeyedJaggedTensor`s and sorts them on
            their device, before the all-to-all; with `pipeline_postproc=True`, `TrainPipelineSparseDist` does that
            ahead, too.

    Raises:
        TypeError: anything but an unsharded `EmbeddingCollection`. Forward: anything but `UniqueFeatures`, or, with
            `dedup="device"`, anything but a `KeyedJaggedTensor`; a trace by torch.fx before sharding.
        ValueError: (forward) features without a key of the tables; with `dedup="device"`, features with weights or a
            stride per key.
    """

    def __init__(self, collection: EmbeddingCollection, dedup: Where = "host") -> None:
        check_collection(type(self).__name__, collection, EmbeddingCollection)
        configs = collection.embedding_configs()
        keys = [key for table in configs for key in table.feature_names]
        super().__init__("embeddings", {table.name: "collection" for table in configs}, keys, dedup)
        self.collection = collection
        names = zip(collection.embedding_names_by_table(), configs, strict=True)
        pairs = [pair for of_table, table in names for pair in zip(of_table, table.feature_names, strict=True)]
        self._configs, self._names = configs, collection.embedding_names_by_table()
        self.rebuild = RebuildSequences(pairs, collection.need_indices())

    def forward(self, features: UniqueFeatures | KeyedJaggedTensor) -> dict[str, JaggedTensor]:
        unique = self._deduplicate(features)
        return self.rebuild(self.collection(unique.deduplicated), unique)

    @property
    def embeddings(self) -> nn.ModuleDict:
        return self.tables()

    def embedding_configs(self) -> list[EmbeddingConfig]:
        return self._configs

    def embedding_names_by_table(self) -> list[list[str]]:
        return self._names

    def embedding_dim(self) -> int:
        return self._configs[0].embedding_dim

    def need_indices(self) -> bool:
        return self.rebuild.need_indices


class DedupEmbeddingBagCollection(_DedupCollection):
    """An `EmbeddingBagCollection` that looks up every distinct id once and pools the distinct rows on this rank.

    Forward: `UniqueFeatures` (from `DedupLoader`) -> `KeyedTensor` (B, sum of D), as in the wrapped collection. The
    wrapper keeps and shards the tables as `EmbeddingCollection`s, one per row width, under
    `<path>.collections.dim_<width>`. Plans use these paths, and a list of sharders needs an
    `EmbeddingCollectionSharder`. Table-row-wise, table-column-wise and grid sharding are not possible, since an
    `EmbeddingCollection` does not have them. State dicts, parameters and fused optimizer states have the names of the
    wrapped collection. Sharding keeps the weights, as in an `EmbeddingCollection`; a plain bag collection on a CPU
    draws new weights. Ranks exchange distinct rows instead of pooled rows: fewer bytes if samples
    share their ids, more if bags are long and all different.

    Args:
        collection, dedup: as in `DedupEmbeddingCollection`.

    Raises:
        TypeError: anything but an unsharded `EmbeddingBagCollection`. Forward: as `DedupEmbeddingCollection`.
        ValueError: a weighted collection, or another pooling than sum and mean. Forward: as `DedupEmbeddingCollection`.
    """

    def __init__(self, collection: EmbeddingBagCollection, dedup: Where = "host") -> None:
        check_collection(type(self).__name__, collection, EmbeddingBagCollection)
        if collection.is_weighted():
            raise ValueError(
                "a weighted EmbeddingBagCollection cannot be deduplicated: weights belong to single values; expected "
                "an EmbeddingBagCollection with is_weighted=False, or leave it as it is: DedupLoader leaves its "
                "features alone"
            )
        configs = collection.embedding_bag_configs()
        homes = {table.name: collection_name(table.embedding_dim) for table in configs}
        keys = [key for table in configs for key in table.feature_names]
        super().__init__("embedding_bags", {name: f"collections.{home}" for name, home in homes.items()}, keys, dedup)
        self._configs = configs
        self.collections = collections_by_width(_unpooled(table) for table in configs)
        for name, home in homes.items():
            inner: Any = self.collections[home]
            inner.embeddings[name].weight = collection.embedding_bags[name].weight
            # Sharding copies weights only of a collection whose device is not meta.
            inner._device = collection.device
        bags: list[Bag] = []
        inside = cast("list[EmbeddingCollection]", list(self.collections.values()))
        row_names = {t.name: of for c in inside for t, of in zip(c.embedding_configs(), c.embedding_names_by_table())}
        for table, names in zip(configs, get_embedding_names_by_table(configs), strict=True):
            home, width, mode = homes[table.name], table.embedding_dim, _mode(table.name, table.pooling)
            for name, row_name, key in zip(names, row_names[table.name], table.feature_names, strict=True):
                bags.append((name, home, row_name, key, width, mode))
        self.pool_bags = PoolBags(bags)

    def forward(self, features: UniqueFeatures | KeyedJaggedTensor) -> KeyedTensor:
        unique = self._deduplicate(features)
        rows = look_up(self.collections, unique.deduplicated)
        sharded = not any(isinstance(collection, EmbeddingCollection) for collection in self.collections.values())
        return self.pool_bags(rows, unique, sharded)

    @property
    def embedding_bags(self) -> nn.ModuleDict:
        return self.tables()

    def embedding_bag_configs(self) -> list[EmbeddingBagConfig]:
        return self._configs

    def is_weighted(self) -> bool:
        return False


def _unpooled(table: Any) -> EmbeddingConfig:
    """The same table without its pooling."""
    return EmbeddingConfig(**{field.name: getattr(table, field.name) for field in fields(BaseEmbeddingConfig)})


def _mode(table: str, pooling: PoolingType) -> Mode:
    modes: dict[PoolingType, Mode] = {PoolingType.SUM: "sum", PoolingType.MEAN: "mean"}
    if pooling not in modes:
        raise ValueError(f"table {table}: expected sum or mean pooling, got {pooling}")
    return modes[pooling]
