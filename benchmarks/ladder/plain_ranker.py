"""The plain job's model: stock `EmbeddingCollection`, tokens, a padded body and a head.

Legend: B requests, N events of one sequence, L events of the longest, C candidates, T tasks.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection

from benchmarks.ladder.padding import Padding
from benchmarks.ladder.plain_batch import PlainBatch
from benchmarks.ladder.plain_longer import PlainLonger
from benchmarks.ladder.plain_tokens import PlainTokens
from dist_rec.config import Config
from dist_rec.data.batch import SequenceBatch
from dist_rec.data.columns import CANDIDATE, CONTEXT
from dist_rec.data.schema import Schema
from dist_rec.embedding.tables import table_dims
from dist_rec.kernels.gather_pool import expand
from dist_rec.models.layers.heads import Head
from dist_rec.models.layers.tokens import EventTokens


class PlainModel(nn.Module):
    """batch -> (loss (), (loss, logits (C, T)), both detached), as the pipeline wants it. The lookup comes first, so
    that the pipeline can start it ahead."""

    def __init__(self, embedding: nn.Module, ranker: "PlainRanker") -> None:
        super().__init__()
        self.embedding, self.ranker = embedding, ranker

    def forward(self, batch: PlainBatch) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return self.ranker(self.embedding(batch.features), batch)


def plain_tables(schema: Schema, config: Config) -> EmbeddingCollection:
    """Every table, with a feature for each field that reads it, on the meta device."""
    fields = {f"{CONTEXT}.{field.name}": field.table for field in schema.context}
    for sequence in schema.sequences:
        fields |= {f"{sequence.name}.{field.name}": field.table for field in sequence.ids}
    fields |= {f"{CANDIDATE}.{field.name}": field.table for field in schema.candidate.ids}
    tables = [
        EmbeddingConfig(
            name=name,
            num_embeddings=size,
            embedding_dim=config.embedding.dim_of(name),
            feature_names=[key for key, table in fields.items() if table == name],
        )
        for name, size in schema.tables.items()
    ]
    return EmbeddingCollection(tables=tables, device=torch.device("meta"))


class PlainRanker(nn.Module):
    """Rows and a batch -> loss and logits; parameters have the names of `dist_rec.models.ranker.Ranker`.

    - `packed`: the token MLP runs on the events, which are padded afterwards; else on padded events
    - `factorised`: tokens by dist_rec's `EventTokens`, from distinct rows and a `SequenceBatch`
    """

    def __init__(self, schema: Schema, config: Config, *, packed: bool, factorised: bool) -> None:
        super().__init__()
        self.schema, self.packed, self.factorised = schema, packed, factorised
        model, dims = config.model, table_dims(schema, config.embedding)
        row_dims = {of.name: sum(dims[field.table] for field in of.ids) for of in schema.sequences}
        candidate_dim = sum(dims[field.table] for field in schema.candidate.ids)
        context_dim = sum(dims[field.table] for field in schema.context)
        self.tokens = nn.ModuleDict(
            {
                of.name: EventTokens(model.tokens, row_dims[of.name], of.side, of.time, 0.0)
                if factorised
                else PlainTokens(model.tokens, row_dims[of.name], of.side, of.time)
                for of in schema.sequences
            }
        )
        longer = model.section("longer")
        encoders = {
            of.name: PlainLonger(longer, model.tokens.width, candidate_dim, context_dim) for of in schema.sequences
        }
        self.body = nn.ModuleDict({"encoders": nn.ModuleDict(encoders)})
        width = len(schema.sequences) * (len(longer.globals) + 1) * longer.merge * model.tokens.width
        self.head = Head(model.head, width + candidate_dim + context_dim, len(schema.candidate.labels))

    def forward(self, rows: Any, batch: Any) -> Any:
        if self.factorised:
            return self._of_packet(rows, batch)
        logits = self._of_rows(rows, batch)
        defined = ~batch.labels.isnan()
        loss = binary_cross_entropy_with_logits(
            logits, batch.labels.nan_to_num(), weight=defined.float(), reduction="sum"
        )
        loss = loss / batch.labels.numel()
        return loss, (loss.detach(), logits.detach())

    def _of_rows(self, looked_up: Any, batch: PlainBatch) -> Tensor:
        candidate = self._rows(looked_up, CANDIDATE, [field.name for field in self.schema.candidate.ids])
        context = self._rows(looked_up, CONTEXT, [field.name for field in self.schema.context])
        tokens, paddings = {}, {}
        for of in self.schema.sequences:
            rows = self._rows(looked_up, of.name, [field.name for field in of.ids])
            padding = Padding(batch.lengths[of.name], batch.longest[of.name], len(rows))
            paddings[of.name] = padding
            values = (batch.age.get(of.name), batch.side[of.name])
            newest_first = torch.arange(padding.longest - 1, -1, -1, device=rows.device)
            if self.packed:
                recency = newest_first[padding.place % max(padding.longest, 1)]
                tokens[of.name] = padding.pad(self.tokens[of.name](rows, recency, *values))
            else:
                tokens[of.name] = self.tokens[of.name](padding.pad(rows), newest_first, *values)
        return self._logits(tokens, paddings, candidate, context)

    def _of_packet(self, rows: dict[str, Tensor], batch: SequenceBatch) -> Tensor:
        owners = self.schema.layout.owners
        assert batch.context is not None, "the ladder's data have context fields"
        tokens, paddings = {}, {}
        for name, events in batch.sequences.items():
            paddings[name] = Padding(events.lengths.tensor, events.lengths.longest, events.lengths.total)
            tokens[name] = paddings[name].pad(self.tokens[name](rows[owners[name].name], events))
        candidate = expand(rows[owners[CANDIDATE].name], batch.candidates.inverse)
        return self._logits(tokens, paddings, candidate, expand(rows[CONTEXT], batch.context))

    def _rows(self, looked_up: Any, owner: str, fields: list[str]) -> Tensor:
        return torch.cat([looked_up[f"{owner}.{field}"].values() for field in fields], 1)

    def _logits(
        self, tokens: dict[str, Tensor], paddings: dict[str, Padding], candidate: Tensor, context: Tensor
    ) -> Tensor:
        encoders: Any = self.body["encoders"]
        parts = [encoder(tokens[name], paddings[name], candidate, context) for name, encoder in encoders.items()]
        per_request = len(candidate) // max(len(context), 1)
        return self.head(torch.cat([*parts, candidate, context.repeat_interleave(per_request, 0)], 1))
