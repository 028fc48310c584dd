"""The plain job's model: stock `EmbeddingCollection`, tokens, a padded body and a head.

Legend: B requests, N events of one sequence, L events of the longest, C candidates, T tasks.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection

from benchmarks.ladder.padding import Padding
from benchmarks.ladder.plain_batch import PlainBatch
from benchmarks.ladder.plain_hyformer import PlainHyFormer
from benchmarks.ladder.plain_longer import PlainLongers
from benchmarks.ladder.plain_tokens import PlainPool, PlainTokens
from dist_rec.config import Config
from dist_rec.data.batch import SequenceBatch
from dist_rec.data.columns import CANDIDATE, CONTEXT
from dist_rec.data.id_field import IdField
from dist_rec.data.schema import Schema
from dist_rec.embedding.tables import table_dims
from dist_rec.kernels.gather_pool import expand
from dist_rec.models.features import FeatureColumns
from dist_rec.models.layers.heads import Head
from dist_rec.models.layers.jagged import CandidateView
from dist_rec.models.layers.sequence_pool import SequencePool
from dist_rec.models.layers.tokens import EventTokens
from dist_rec.models.longer.config import LongerConfig


class PlainModel(nn.Module):
    """batch -> (loss (), (loss, logits (C, T)), both detached), as the pipeline wants it. The lookup comes first, so
    that the pipeline can start it ahead."""

    def __init__(self, embedding: nn.Module, ranker: "PlainRanker") -> None:
        super().__init__()
        self.embedding, self.ranker = embedding, ranker

    def forward(self, batch: PlainBatch) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        logits = self.ranker(self.embedding(batch.features), batch)
        loss = plain_loss(logits, batch.labels)
        return loss, (loss.detach(), logits.detach())


def plain_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over candidates and tasks (C, T) of the cross-entropy, zero where a label is NaN."""
    defined = (~labels.isnan()).float()
    losses = binary_cross_entropy_with_logits(logits, labels.nan_to_num(), weight=defined, reduction="sum")
    return losses / labels.numel()


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
    """Rows and a batch -> logits; parameters have the names of `dist_rec.models.ranker.Ranker`.

    - `packed`: the token MLP runs on the events, which are padded later; else on padded events
    - `factorised`: tokens by dist_rec's `EventTokens`, from distinct rows and a `SequenceBatch`
    """

    def __init__(self, schema: Schema, config: Config, *, packed: bool, factorised: bool) -> None:
        super().__init__()
        self.schema, self.packed, self.factorised = schema, packed, factorised
        self.precision = config.model.precision
        model, dims = config.model, table_dims(schema, config.embedding)
        options, width = model.resolved_options(), model.tokens.width
        columns = FeatureColumns.of(schema, dims, model.tokens.side_dim)
        context_dim = sum(dims[field.table] for field in schema.context)
        candidate_dim, names = columns.total - context_dim, [of.name for of in schema.sequences]
        self.tokens, self.pools = nn.ModuleDict(), nn.ModuleDict()
        for of in schema.sequences:
            row_dim = sum(dims[field.table] for field in of.ids)
            if factorised:
                tokens: Any = EventTokens(model.tokens, row_dim, of.side, of.time, 0.0)
            else:
                tokens = PlainTokens(model.tokens, row_dim, of.side, of.time)
            self.tokens[of.name] = tokens
            if options.wants_pools():
                self.pools[of.name] = (SequencePool if factorised else PlainPool)(row_dim, tokens, width)
        if isinstance(options, LongerConfig):
            self.body: Any = PlainLongers(options, width, names, candidate_dim, context_dim)
        else:
            self.body = PlainHyFormer(options, width, names, columns)
        inputs = options.head_inputs(model)
        self.with_features = {"context", "candidate"} <= set(inputs)
        head_width = self.body.width + columns.total * self.with_features
        self.head = Head(model.head, head_width, len(schema.candidate.labels))

    def forward(self, rows: Any, batch: Any) -> Tensor:
        """(C, T)"""
        if self.factorised:
            return self._of_packet(rows, batch)
        candidate = self._rows(rows, CANDIDATE, self.schema.candidate.ids)
        context = self._rows(rows, CONTEXT, self.schema.context)
        tokens, paddings, pools = {}, {}, {}
        for of in self.schema.sequences:
            name, events = of.name, self._rows(rows, of.name, of.ids)
            padding = paddings[name] = Padding(batch.lengths[name], batch.longest[name], len(events))
            recency = torch.arange(padding.longest - 1, -1, -1, device=events.device)
            if self.packed:
                recency = recency[padding.place % padding.longest]
            else:
                events = padding.pad(events)
            beside = self.tokens[name].values(batch.age.get(name), batch.side[name])
            with self._cast("tokens", events.device):
                tokens[name] = self.tokens[name](events, recency, beside)
            if name in self.pools:
                pools[name] = self.pools[name](events, beside, padding)
        return self._logits(tokens, paddings, pools, candidate, context)

    def _of_packet(self, rows: dict[str, Tensor], batch: SequenceBatch) -> Tensor:
        owners = self.schema.layout.owners
        assert batch.context is not None, "the ladder's data have context fields"
        candidate = expand(rows[owners[CANDIDATE].name], batch.candidates.inverse)
        context = expand(rows[CONTEXT], batch.context)
        view = CandidateView(candidate, context, batch.candidates.lengths, None)
        tokens, paddings, pools = {}, {}, {}
        for name, events in batch.sequences.items():
            lengths, own = events.lengths, rows[owners[name].name]
            paddings[name] = Padding(lengths.tensor, max(lengths.longest, 1), lengths.total)
            with self._cast("tokens", own.device):
                tokens[name] = self.tokens[name](own, events)
            if name in self.pools:
                pools[name] = self.pools[name](own, events, self.tokens[name], view)
        return self._logits(tokens, paddings, pools, candidate, context)

    def _rows(self, looked_up: Any, owner: str, fields: list[IdField]) -> Tensor:
        return torch.cat([looked_up[f"{owner}.{field.name}"].values() for field in fields], 1)

    def _logits(
        self,
        tokens: dict[str, Tensor],
        paddings: dict[str, Padding],
        pools: dict[str, Tensor],
        candidate: Tensor,
        context: Tensor,
    ) -> Tensor:
        with self._cast("layers", candidate.device):
            features = self.body(tokens, paddings, pools, candidate, context)
        if self.with_features:
            of_request = context.repeat_interleave(len(candidate) // len(context), 0)
            features = torch.cat([features.float(), candidate, of_request], 1)
        with self._cast("head", candidate.device):
            return self.head(features.float())

    def _cast(self, part: str, device: torch.device) -> AbstractContextManager[None]:
        """The compute type of a part, as the recipe says it for dist_rec's model."""
        precision = getattr(self.precision, part)
        half = precision == "bf16" or (precision == "auto" and device.type == "cuda")
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=half)
