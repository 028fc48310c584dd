"""Lookup of unique tokens: U rows per feature set, never one row per event."""

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.config import EmbeddingConfig
from dist_rec.data.schema import Schema
from dist_rec.embedding.dedup_lookup import collection_name, look_up
from dist_rec.embedding.dynamic_tables import DynamicTables
from dist_rec.embedding.tables import build_collections, build_replicated


class TokenEmbedding(nn.Module):
    """KeyedJaggedTensor of unique ids (stride 1, one key per field of each feature set) -> feature set -> (U, D) rows.

    A token's row is the concatenation of its fields' rows. `rows[inverse]`, with the batch's `inverse` index, equals a
    lookup of every event, bit for bit. The forward indexes outputs of collections by known names and never iterates
    over them, so that torch.fx can trace it through a sharded collection.

    Raw ids of dynamic tables become rows first, by `dynamic`; a pipeline may have done so ahead.

    Sharded tables are in `collections`, one per row width and one for each of `ngram_tables`; data-parallel tables in
    `replicated`, as dense parameters. Rows of the sharded tables in `frozen` come without a gradient.
    """

    def __init__(self, schema: Schema, config: EmbeddingConfig, device: torch.device) -> None:
        super().__init__()
        self.collections = build_collections(schema, config)
        self.replicated = build_replicated(schema, config, device)
        dynamic = DynamicTables(schema, config)
        self.has_dynamic = bool(dynamic.held)
        if self.has_dynamic:
            self.dynamic, (self.renewal,) = dynamic, dynamic.renewal
        self.frozen: frozenset[str] = frozenset()
        tables = schema.layout.tables
        self.ngram_tables = frozenset(schema.ngram_tables)
        self.sources = {
            name: [(key, tables[key], self._source(config, tables[key])) for key in feature_set.keys]
            for name, feature_set in schema.layout.feature_sets.items()
        }

    @property
    def row_wise_tables(self) -> frozenset[str]:
        """Tables that are split by rows if a recipe says nothing else."""
        return self.ngram_tables | (frozenset(self.dynamic.held) if self.has_dynamic else frozenset())

    def forward(self, unique: KeyedJaggedTensor) -> dict[str, Tensor]:
        if self.has_dynamic:
            unique = self.dynamic(unique)
            self.renewal()
        looked_up = look_up(self.collections, unique)
        rows = {}
        for name, fields in self.sources.items():
            parts = []
            for key, table, source in fields:
                ids_or_rows = unique[key] if source is None else looked_up[source][key]
                values = ids_or_rows.values()
                if source is None:
                    parts.append(self.replicated[table](values))
                else:
                    parts.append(values.detach() if table in self.frozen else values)
            rows[name] = torch.cat(parts, dim=1)
        return rows

    def _source(self, config: EmbeddingConfig, table: str) -> str | None:
        """The collection that holds a table, or None for a data-parallel one."""
        if table in self.ngram_tables:
            return table
        return None if config.is_replicated(table) else collection_name(config.dim_of(table))
