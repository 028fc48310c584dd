"""Embedding tables, declared from the schema and the recipe."""

import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingConfig as TorchrecConfig
from torchrec.modules.embedding_modules import EmbeddingCollection

from dist_rec.config import ConfigError, EmbeddingConfig
from dist_rec.data.schema import Schema


def table_dim(config: EmbeddingConfig, table: str) -> int:
    """Width of a table's rows."""
    override = config.tables.get(table)
    return config.dim if override is None or override.dim is None else override.dim


def table_dims(schema: Schema, config: EmbeddingConfig) -> dict[str, int]:
    """Width of the rows of every table of the schema."""
    return {table: table_dim(config, table) for table in schema.tables}


def is_replicated(config: EmbeddingConfig, table: str) -> bool:
    """Whether a table is held whole by every rank."""
    override = config.tables.get(table)
    return override is not None and override.sharding == ["data_parallel"]


def collection_name(config: EmbeddingConfig, table: str) -> str:
    """Name of the collection that holds a sharded table: tables of one width stand together."""
    return f"dim_{table_dim(config, table)}"


def build_collections(schema: Schema, config: EmbeddingConfig) -> nn.ModuleDict:
    """The sharded tables, on the meta device: one EmbeddingCollection per row width, since it can hold only one.

    There is one table per name that a field uses; features are named "<token set>.<field>".
    Raises ConfigError for an override of a table that no field uses, or if every table is data-parallel.
    """
    features = _features_by_table(schema)
    for name in config.tables:
        if name not in features:
            raise ConfigError(f"embedding.tables.{name}: no field uses this table; used: {', '.join(features)}")
    by_collection: dict[str, list[TorchrecConfig]] = {}
    for name, keys in features.items():
        if is_replicated(config, name):
            continue
        table = TorchrecConfig(
            name=name,
            num_embeddings=schema.tables[name],
            embedding_dim=table_dim(config, name),
            feature_names=keys,
            weight_init_min=-config.init_scale,
            weight_init_max=config.init_scale,
        )
        by_collection.setdefault(collection_name(config, name), []).append(table)
    if not by_collection:
        raise ConfigError("embedding.tables: every table is data_parallel; at least one must be sharded")
    meta = torch.device("meta")
    return nn.ModuleDict({name: EmbeddingCollection(tables=tables, device=meta) for name, tables in by_collection.items()})


def build_replicated(schema: Schema, config: EmbeddingConfig, device: torch.device) -> nn.ModuleDict:
    """The data-parallel tables, as plain embeddings: their gradient is dense and belongs to the dense optimizer.

    TorchRec's own data-parallel tables have the same meaning but cannot be used on CPU: FBGEMM's dense CPU kernel pools
    rows although no pooling was asked for (seen with 1.8.0).
    """
    tables = nn.ModuleDict()
    for name in _features_by_table(schema):
        if is_replicated(config, name):
            table = nn.Embedding(schema.tables[name], table_dim(config, name), device=device)
            nn.init.uniform_(table.weight, -config.init_scale, config.init_scale)
            tables[name] = table
    return tables


def _features_by_table(schema: Schema) -> dict[str, list[str]]:
    features: dict[str, list[str]] = {}
    for tokens in schema.token_sets.values():
        for key, field in tokens.keyed_fields:
            features.setdefault(field.table, []).append(key)
    return features
