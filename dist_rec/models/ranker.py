"""The dense part of a model: embedding rows and a batch in, one logit per candidate and task out. Knows one device only."""

from itertools import accumulate

import torch
from torch import Tensor, nn

from dist_rec.config import ConfigError, HyFormerSequence, ModelConfig, Precision
from dist_rec.data.batch import SequenceBatch
from dist_rec.data.schema import Schema
from dist_rec.kernels.gather_pool import expand
from dist_rec.models.heads import Head
from dist_rec.models.hyformer import HyFormer
from dist_rec.models.jagged import CandidateView, SequenceInputs
from dist_rec.models.late_fusion import LateFusion
from dist_rec.models.non_sequential import GroupedTokens, SlicedTokens
from dist_rec.models.recompute import run
from dist_rec.models.sequence_pool import SequencePool
from dist_rec.models.tokens import BucketTerm, EventTokens


class Ranker(nn.Module):
    """Event tokens of every sequence, what the model makes of them for every candidate (`body`), and the head.

    `table_dims` gives the width of the rows of each table. Forward: rows by token set (U, D_set) and the batch -> logits
    (C, T).
    """

    def __init__(self, schema: Schema, config: ModelConfig, table_dims: dict[str, int]) -> None:
        super().__init__()
        check_fits(schema, config)
        self.schema, self.config = schema, config
        self.candidate_set = schema.token_set_of(schema.candidate.static)
        self.sequence_sets = {sequence.name: schema.token_set_of(sequence.static) for sequence in schema.sequences}
        self.candidate_dynamic = nn.ModuleDict(
            {name: nn.Embedding(size, config.tokens.dynamic_dim) for name, size in schema.candidate.dynamic.items()}
        )
        row_dims = {name: sum(table_dims[f.table] for f in tokens.fields) for name, tokens in schema.token_sets.items()}
        dynamic_dims = config.tokens.dynamic_dim * len(schema.candidate.dynamic)
        self.candidate_dim, self.context_dim = row_dims[self.candidate_set] + dynamic_dims, row_dims.get("context", 0)
        dropout = getattr(config, config.name).dropout
        tokens = {
            s.name: EventTokens(config.tokens, row_dims[self.sequence_sets[s.name]], s.dynamic, s.time, dropout)
            for s in schema.sequences
        }
        self.tokens = nn.ModuleDict(tokens)
        pooled = tokens if config.name == "hyformer" and "pools" in config.hyformer.query_inputs else {}
        self.pools = nn.ModuleDict(
            {n: SequencePool(row_dims[self.sequence_sets[n]], t, config.tokens.width) for n, t in pooled.items()}
        )
        self.body = self._body(FeatureColumns(schema, table_dims, config.tokens.dynamic_dim))
        self.head_width = self.body.width + self.candidate_dim * ("candidate" in config.head_inputs)
        self.head_width += self.context_dim * ("context" in config.head_inputs)
        self.head = Head(config.head, self.head_width, len(schema.candidate.labels))
        self.apply(_start_small)

    def _body(self, columns: "FeatureColumns") -> HyFormer | LateFusion:
        config, sequences = self.config, [s.name for s in self.schema.sequences]
        if config.name == "hyformer":
            tokens = _non_sequential(config, columns, config.tokens.width)
            return HyFormer(config, sequences, tokens, columns.candidate_groups)
        mixes = config.interaction == "rankmixer"
        tokens = _non_sequential(config, columns, config.rankmixer.width) if mixes else None
        return LateFusion(config, sequences, self.candidate_dim, self.context_dim, tokens)

    def forward(self, rows: dict[str, Tensor], batch: SequenceBatch) -> Tensor:
        view = self.candidates(rows, batch)
        sequences = self.sequences(rows, batch, view)
        with self._cast("layers", batch.group.device):
            features = self.body(sequences, view)
        if "candidate" in self.config.head_inputs:
            features.append(view.features)
        if "context" in self.config.head_inputs and view.context is not None:
            features.append(view.context[view.request])
        with self._cast("head", batch.group.device):
            return self.head(torch.cat([part.float() for part in features], dim=1))

    def candidates(self, rows: dict[str, Tensor], batch: SequenceBatch) -> CandidateView:
        parts = [expand(rows[self.candidate_set], batch.candidates.inverse)]
        parts += [embedding(batch.candidates.dynamic[name].int()) for name, embedding in self.candidate_dynamic.items()]
        context = expand(rows["context"], batch.context) if batch.context is not None else None
        return CandidateView.of(batch, torch.cat(parts, dim=1), context)

    def event_tokens(self, name: str, rows: dict[str, Tensor], batch: SequenceBatch) -> Tensor:
        """(N, d) tokens of one sequence."""
        with self._cast("tokens", batch.group.device):
            return self.tokens[name](rows[self.sequence_sets[name]], batch.sequences[name])

    def sequences(self, rows: dict[str, Tensor], batch: SequenceBatch, view: CandidateView) -> SequenceInputs:
        """What the body reads of every sequence."""
        again, half = "tokens" in self.config.recompute, self._is_half("layers", batch.group.device)
        tokens = {name: run(self.event_tokens, name, rows, batch, again=again) for name in self.tokens}
        pools = {
            name: pool(rows[self.sequence_sets[name]], batch.sequences[name], self.tokens[name], view)
            for name, pool in self.pools.items()
        }
        lengths = {name: batch.sequences[name].lengths for name in self.tokens}
        # Tokens in bf16 do not make the layers bf16.
        return SequenceInputs({name: t if half else t.float() for name, t in tokens.items()}, lengths, pools)

    def _cast(self, part: str, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._is_half(part, device))

    def _is_half(self, part: str, device: torch.device) -> bool:
        precision: Precision = getattr(self.config.precision, part)
        return precision == "bf16" or (precision == "auto" and device.type == "cuda")


class FeatureColumns:
    """Where the fields of each group stand in `[context ; candidate]` features."""

    def __init__(self, schema: Schema, table_dims: dict[str, int], dynamic_dim: int) -> None:
        widths = {f"context.{field.name}": table_dims[field.table] for field in schema.context}
        widths |= {f"candidate.{field.name}": table_dims[field.table] for field in schema.candidate.static}
        widths |= {f"candidate.{name}": dynamic_dim for name in schema.candidate.dynamic}
        ends = dict(zip(widths, accumulate(widths.values()), strict=True))
        self.total = sum(widths.values())
        self.groups = {
            group: [slice(ends[field] - widths[field], ends[field]) for field in fields]
            for group, fields in schema.feature_groups.items()
        }
        self.candidate_groups = [
            place
            for place, fields in enumerate(schema.feature_groups.values())
            if any(field.startswith("candidate.") for field in fields)
        ]


def _non_sequential(config: ModelConfig, columns: FeatureColumns, width: int) -> GroupedTokens | SlicedTokens:
    split = config.non_sequential.split
    return GroupedTokens(columns.groups, width) if split is None else SlicedTokens(columns.total, split, width)


def _start_small(module: nn.Module) -> None:
    """Zero biases and small position, time and dynamic embeddings. Embedding rows start small too, and what feeds a LayerNorm
    is seen relative to its neighbours: with torch's defaults the biases and time terms are 30 times the ids' own signal."""
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, EventTokens):
        # Dynamic fields such as an answer's outcome carry signal from the start and, unlike rows, move at the dense rate.
        for term in module.dynamic.values():
            assert isinstance(term, BucketTerm)
            nn.init.normal_(term.embedding.weight, std=0.1)


def check_fits(schema: Schema, config: ModelConfig) -> None:
    """Raises ConfigError if the model cannot work on this schema."""
    if config.name == "longer" and not config.mixes and not {"globals", "sequence_mean"} & set(config.head_inputs):
        raise ConfigError(
            "model.head.inputs: longer gives globals and sequence_mean, and the head would see neither; "
            f"expected at least one of them, got {config.head.inputs}"
        )
    if config.name == "hyformer":
        _check_hyformer(schema, config)
    if not schema.candidate.seen:
        return
    if config.tokens.position == "recency":
        raise ConfigError(
            "model.tokens.position: candidates with their own `seen` have no common newest event; expected absolute or none"
        )
    if config.name == "longer" and (config.longer.merge != 1 or config.longer.k != 0 or config.longer.queries != "recent"):
        raise ConfigError(
            "model.longer: candidates with their own `seen` need every event as a row of its own; expected merge: 1, k: 0, "
            f"queries: recent, got merge: {config.longer.merge}, k: {config.longer.k}, queries: {config.longer.queries}"
        )


def _check_hyformer(schema: Schema, config: ModelConfig) -> None:
    known = [sequence.name for sequence in schema.sequences]
    if unknown := sorted(set(config.hyformer.sequences) - set(known)):
        raise ConfigError(
            f"model.hyformer.sequences: no sequence {', '.join(unknown)} in the schema; known: {', '.join(known)}"
        )
    if config.hyformer.merge_sequences and (others := sorted(set(config.hyformer.sequences) - {known[0]})):
        raise ConfigError(
            f"model.hyformer.sequences: merge_sequences joins all into one with the settings of the first, {known[0]}; "
            f"expected nothing for {', '.join(others)}"
        )
    if "candidate" in config.hyformer.query_inputs and config.non_sequential.split is not None:
        raise ConfigError(
            "model.hyformer.query_inputs: candidate needs groups of fields, but model.non_sequential.split cuts them"
        )
    if not schema.candidate.seen:
        return
    for name in known:
        sequence = config.hyformer.sequences.get(name, HyFormerSequence())
        if sequence.encoder == "longer" or (sequence.encoder == "full" and not sequence.causal):
            raise ConfigError(
                f"model.hyformer.sequences.{name}: candidates with their own `seen` need states of events that know no later "
                f"one, for all events; expected encoder: full with causal: true, or encoder: swiglu, got encoder: "
                f"{sequence.encoder}, causal: {str(sequence.causal).lower()}"
            )
