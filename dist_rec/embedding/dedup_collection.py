"""TorchRec's collections over deduplicated features: same outputs, same names, same checkpoints, unique ids alone
looked up and sent.

    model.ec = DedupEmbeddingCollection(model.ec)      # before sharding
    batches = DedupLoader(loader)                      # host side

The wrapped collection stays an ordinary one inside, so stock sharders shard it and `TrainPipelineSparseDist` pipelines
it: what it is called with is an attribute of what came in the batch, which that pipeline's tracer can follow.

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
    """What both wrappers share: where features are deduplicated, and what is said about them and about sharding."""

    def __init__(self, tables: str, homes: dict[str, str], keys: list[str], dedup: Where) -> None:
        super().__init__(tables, homes)
        if dedup not in ("host", "device"):
            raise ValueError(f"dedup must be 'host' (batches of a DedupLoader) or 'device', got {dedup!r}")
        self.unique = UniqueOnDevice() if dedup == "device" else None
        self._keys = list(dict.fromkeys(keys))
        self._told = False

    @property
    def device(self) -> torch.device:
        """Of the tables, before sharding; sharded collections of TorchRec do not answer it."""
        return cast(Any, self.held()[0]).device

    def reset_parameters(self) -> None:
        for collection in self.held():
            cast(Any, collection).reset_parameters()

    def _deduplicate(self, features: Any) -> Any:
        unsharded = any(isinstance(collection, EmbeddingCollection) for collection in self.held())
        if isinstance(features, torch.fx.Proxy):  # of which only attributes may be asked
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
            f"{type(self).__name__} {what} while it is not sharded. Expected DistributedModelParallel to shard what "
            "it holds "
            f"({', '.join(self.holders())}) as EmbeddingCollection: sharders=[...] needs an "
            "EmbeddingCollectionSharder(), also "
            "where bags are wrapped (the default sharders have one), and a plan of your own an entry of that name"
        )


class DedupEmbeddingCollection(_DedupCollection):
    """An `EmbeddingCollection` that looks every distinct id up once.

    Forward: `UniqueFeatures` (from `DedupLoader`) -> dict of embedding name -> `JaggedTensor`, with values (N, D),
    lengths (B,) and, with `need_indices`, the ids as weights: what the wrapped collection gives for the plain features,
    bit for bit. State dicts, parameters and fused optimizer states have the names of the wrapped collection; sharding
    plans name it `<path>.collection`.

    Args:
        collection: to be sharded with the model around it; its parameters are taken over.
        dedup: `host` takes what a `DedupLoader` made. `device` takes plain `KeyedJaggedTensor`s and sorts them where
            they are, before the all-to-all; for `TrainPipelineSparseDist` to do that ahead, too, give it
            `pipeline_postproc=True`.

    Raises:
        TypeError: anything but an `EmbeddingCollection` that is not sharded yet. Forward: anything but
            `UniqueFeatures`, or, with `dedup="device"`, anything but a `KeyedJaggedTensor`; a trace by torch.fx before
            sharding.
        ValueError: (forward) features without a key of the tables; with `dedup="device"`, with weights or a stride per
        key.
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
    """An `EmbeddingBagCollection` that looks every distinct id up once and pools on this rank, straight from distinct
    rows.

    Forward: `UniqueFeatures` (from `DedupLoader`) -> `KeyedTensor` (B, sum of D), as the wrapped collection gives. The
    tables are held, and sharded, as `EmbeddingCollection`s, one per row width, under `<path>.collections.dim_<width>`:
    plans use those paths, a list of sharders needs an `EmbeddingCollectionSharder`, and table-row-wise,
    table-column-wise and grid sharding, which an `EmbeddingCollection` does not have, are not possible. State dicts,
    parameters and fused optimizer states have the names of the wrapped collection. Weights survive sharding, as those
    of an `EmbeddingCollection` do; a plain bag collection that stands on a CPU draws new ones then (TorchRec 1.8.0).
    Between ranks there travel distinct rows instead of pooled ones: fewer bytes where samples share their ids, more
    where bags are long and all different.

    Args:
        collection, dedup: as in `DedupEmbeddingCollection`.

    Raises:
        TypeError: anything but an `EmbeddingBagCollection` that is not sharded yet. Forward: as
        `DedupEmbeddingCollection`.
        ValueError: a weighted collection, or another pooling than sum and mean. Forward: as `DedupEmbeddingCollection`.
    """

    def __init__(self, collection: EmbeddingBagCollection, dedup: Where = "host") -> None:
        check_collection(type(self).__name__, collection, EmbeddingBagCollection)
        if collection.is_weighted():
            raise ValueError(
                "a weighted EmbeddingBagCollection cannot be deduplicated: weights belong to single values; expected "
                "an "
                "EmbeddingBagCollection with is_weighted=False, or leave it as it is: DedupLoader leaves its features "
                "alone"
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
            # Sharding copies the weights only of a collection that does not say it is on the meta device.
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
    if pooling is PoolingType.SUM:
        return "sum"
    if pooling is PoolingType.MEAN:
        return "mean"
    raise ValueError(f"table {table}: expected sum or mean pooling, got {pooling}")
