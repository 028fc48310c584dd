"""Embedding tables, declared from the schema and the recipe. Only what makes TorchRec's tables loads TorchRec: a model
that is served knows the widths of its rows without it."""

import torch
from torch import nn

from dist_rec.common.open_ids import IdKind
from dist_rec.common.strict import ConfigError
from dist_rec.config import EmbeddingConfig, TableConfig
from dist_rec.data.schema import Schema


def table_dims(schema: Schema, config: EmbeddingConfig) -> dict[str, int]:
    """Width of the rows of every table: of n-grams a part of that of their ids, so that the rows of an event's n-grams
    are together as wide as the row of its id. Raises ConfigError if that cannot be."""
    widths = {table: config.dim_of(table) for table in schema.tables}
    for name, of in schema.ngram_tables.items():
        try:
            widths[name] = of.spec.width(widths[of.base])
        except ValueError as error:
            raise ConfigError(f"n-grams of {of.sequence}.{of.field}, embedding.tables.{of.base}.dim: {error}") from None
    return widths


def check_tables(schema: Schema, config: EmbeddingConfig) -> None:
    """Raises ConfigError for an override of a table that no field uses, or that its kind of ids does not allow, or if
    every table is data-parallel."""
    features = _features_by_table(schema)
    for name in config.tables:
        if name not in features and name not in schema.tables:  # feedback may use it, which this run does not read
            raise ConfigError(f"embedding.tables.{name}: no field uses this table; used: {', '.join(features)}")
    for name in schema.ngram_tables:
        override = config.tables.get(name)
        fixed = override is not None and (override.dim is not None or name in config.ids)
        if fixed or config.is_replicated(name):
            raise ConfigError(
                f"embedding.tables.{name}: a table of n-grams is as wide as its field and their number make it, and "
                "sharded, so that only rows that occur change; expected no dim, no rows, no ids and no data_parallel, "
                f"got {override}"
            )
    for name, table in config.tables.items():
        _check_ids(name, table, schema.open_ids.get(name, "range"))
    if all(config.is_replicated(name) for name in features):
        raise ConfigError("embedding.tables: every table is data_parallel; at least one must be sharded")


def build_collections(schema: Schema, config: EmbeddingConfig) -> nn.ModuleDict:
    """The sharded tables, on the meta device: one EmbeddingCollection per row width, and one for each table of n-grams,
    named after it.

    There is one table per name that a field uses; features are named "<feature set>.<field>". Raises as `check_tables`.
    """
    from torchrec.modules.embedding_configs import EmbeddingConfig as TorchrecConfig
    from torchrec.modules.embedding_modules import EmbeddingCollection

    from dist_rec.embedding.dedup_lookup import collections_by_width

    check_tables(schema, config)
    dims, meta = table_dims(schema, config), torch.device("meta")
    tables = {
        name: TorchrecConfig(
            name=name,
            num_embeddings=schema.rows_of(name),
            embedding_dim=dims[name],
            feature_names=keys,
            weight_init_min=-config.init_scale,
            weight_init_max=config.init_scale,
        )
        for name, keys in _features_by_table(schema).items()
        if not config.is_replicated(name)
    }
    collections = collections_by_width(table for name, table in tables.items() if name not in schema.ngram_tables)
    for name in schema.ngram_tables:
        collections[name] = EmbeddingCollection(tables=[tables[name]], device=meta)
    return collections


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


def _check_ids(name: str, table: TableConfig, kind: IdKind) -> None:
    place = f"embedding.tables.{name}"
    if kind != "dynamic":
        if table.eviction is not None or table.admission is not None:
            raise ConfigError(f"{place}: eviction and admission are of tables with ids: dynamic, got ids: {kind}")
    elif table.sharding not in (None, ["row_wise"]):
        raise ConfigError(
            f"{place}: dynamic ids live with their rows, which are spread over the ranks; expected sharding: "
            f"[row_wise] or none, got {table.sharding}"
        )
    elif any("uvm" in kernel for kernel in table.kernel or []):
        raise ConfigError(
            f"{place}: rows of dynamic ids are reset where they are, not in a cache of rows of host memory; expected "
            f"ids: hashed, or no uvm kernel, got kernel {table.kernel}"
        )


def _features_by_table(schema: Schema) -> dict[str, list[str]]:
    features: dict[str, list[str]] = {}
    for key, table in schema.layout.tables.items():
        features.setdefault(table, []).append(key)
    return features
