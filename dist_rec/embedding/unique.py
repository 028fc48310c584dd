"""Lookup of unique tokens: U rows per token set, never one row per event."""

import torch
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.config import EmbeddingConfig
from dist_rec.data.schema import Schema
from dist_rec.embedding.tables import build_collection, build_replicated, is_replicated


class TokenEmbedding(nn.Module):
    """KeyedJaggedTensor of unique ids (stride 1, one key per field of each token set) -> token set -> (U, D) rows.

    A token's row is the concatenation of its fields' rows. The batch's `inverse` index turns rows into events:
    `rows[inverse]` equals looking every event up, bit for bit. Outputs of the collection are indexed by the names known
    here and never iterated over, which is what torch.fx can trace through a sharded collection.

    Sharded tables stand in `collection`, data-parallel ones in `replicated`, where they are dense parameters like any other.
    """

    def __init__(self, schema: Schema, config: EmbeddingConfig, device: torch.device) -> None:
        super().__init__()
        self.collection = build_collection(schema, config)
        self.replicated = build_replicated(schema, config, device)
        self.fields_of_set = {
            name: [(key, field.table if is_replicated(config, field.table) else None) for key, field in tokens.keyed_fields]
            for name, tokens in schema.token_sets.items()
        }

    def forward(self, unique: KeyedJaggedTensor) -> dict[str, Tensor]:
        looked_up = self.collection(unique)
        rows = {}
        for name, fields in self.fields_of_set.items():
            parts = []
            for key, table in fields:
                parts.append(looked_up[key].values() if table is None else self.replicated[table](unique[key].values()))
            rows[name] = torch.cat(parts, dim=1)
        return rows
