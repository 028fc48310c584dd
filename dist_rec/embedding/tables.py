"""Embedding tables, declared from the schema and the recipe."""

import torch
from torch import nn
from torchrec.modules.embedding_configs import EmbeddingConfig as TorchrecConfig

from dist_rec.common.strict import ConfigError
from dist_rec.config import EmbeddingConfig
from dist_rec.data.schema import Schema
from dist_rec.embedding.dedup_lookup import collections_by_width


def table_dims(schema: Schema, config: EmbeddingConfig) -> dict[str, int]:
    """Width of the rows of every table of the schema."""
    return {table: config.dim_of(table) for table in schema.tables}


def check_tables(schema: Schema, config: EmbeddingConfig) -> None:
    """Raises ConfigError for an override of a table that no field uses, or if every table is data-parallel."""
    features = _features_by_table(schema)
    for name in config.tables:
        if name not in features:
            raise ConfigError(f"embedding.tables.{name}: no field uses this table; used: {', '.join(features)}")
    if all(config.is_replicated(name) for name in features):
        raise ConfigError("embedding.tables: every table is data_parallel; at least one must be sharded")


def build_collections(schema: Schema, config: EmbeddingConfig) -> nn.ModuleDict:
    """The sharded tables, on the meta device: one EmbeddingCollection per row width.

    There is one table per name that a field uses; features are named "<feature set>.<field>". Raises as `check_tables`.
    """
    check_tables(schema, config)
    return collections_by_width(
        TorchrecConfig(
            name=name,
            num_embeddings=schema.rows_of(name),
            embedding_dim=config.dim_of(name),
            feature_names=keys,
            weight_init_min=-config.init_scale,
            weight_init_max=config.init_scale,
        )
        for name, keys in _features_by_table(schema).items()
        if not config.is_replicated(name)
    )


def build_replicated(schema: Schema, config: EmbeddingConfig, device: torch.device) -> nn.ModuleDict:
    """The data-parallel tables, as plain embeddings: their gradient is dense and belongs to the dense optimizer.

    TorchRec's own data-parallel tables do not work on CPU: FBGEMM's dense CPU kernel pools rows even without
    pooling."""
    tables = nn.ModuleDict()
    for name in _features_by_table(schema):
        if config.is_replicated(name):
            table = nn.Embedding(schema.rows_of(name), config.dim_of(name), device=device)
            nn.init.uniform_(table.weight, -config.init_scale, config.init_scale)
            tables[name] = table
    return tables


def _features_by_table(schema: Schema) -> dict[str, list[str]]:
    features: dict[str, list[str]] = {}
    for key, table in schema.layout.tables.items():
        features.setdefault(table, []).append(key)
    return features
