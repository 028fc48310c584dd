"""The dense part of a model: embedding rows and a batch in, one logit per candidate and task out. Knows one device only."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dist_rec.config import ConfigError, ModelConfig, Precision
from dist_rec.data.batch import SequenceBatch
from dist_rec.data.schema import Schema
from dist_rec.kernels.gather_pool import expand
from dist_rec.models.din import Din
from dist_rec.models.heads import Head
from dist_rec.models.jagged import CandidateView
from dist_rec.models.longer import Longer
from dist_rec.models.pooling import SumPooling
from dist_rec.models.tokens import BucketTerm, EventTokens


class Ranker(nn.Module):
    """Tokens, one sequence encoder per behaviour sequence, and the head.

    `row_dims` gives the width of the rows of each token set. Forward: rows by token set (U, D_set) and the batch ->
    logits (C, T).
    """

    def __init__(self, schema: Schema, config: ModelConfig, row_dims: dict[str, int]) -> None:
        super().__init__()
        _check(schema, config)
        self.schema, self.config = schema, config
        self.candidate_set = schema.token_set_of(schema.candidate.static)
        self.sequence_sets = {sequence.name: schema.token_set_of(sequence.static) for sequence in schema.sequences}
        self.candidate_dynamic = nn.ModuleDict(
            {name: nn.Embedding(size, config.tokens.dynamic_dim) for name, size in schema.candidate.dynamic.items()}
        )
        candidate_dim = row_dims[self.candidate_set] + config.tokens.dynamic_dim * len(schema.candidate.dynamic)
        context_dim = row_dims.get("context", 0)
        dropout = getattr(config, config.name).dropout
        self.tokens = nn.ModuleDict(
            {
                s.name: EventTokens(config.tokens, row_dims[self.sequence_sets[s.name]], s.dynamic, s.time, dropout)
                for s in schema.sequences
            }
        )
        encoders = {s.name: _encoder(config, candidate_dim, context_dim) for s in schema.sequences}
        self.encoders = nn.ModuleDict(encoders)
        width = sum(encoder.width for encoder in encoders.values())
        width += candidate_dim * ("candidate" in config.head.inputs) + context_dim * ("context" in config.head.inputs)
        self.head = Head(config.head, width, len(schema.candidate.labels))
        self.apply(_start_small)

    def forward(self, rows: dict[str, Tensor], batch: SequenceBatch) -> Tensor:
        view = self.candidates(rows, batch)
        features = [self.encode(name, rows, batch, view) for name in self.encoders]
        if "candidate" in self.config.head.inputs:
            features.append(view.features)
        if "context" in self.config.head.inputs and view.context is not None:
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

    def encode(self, name: str, rows: dict[str, Tensor], batch: SequenceBatch, view: CandidateView) -> Tensor:
        """(C, width) summary of one sequence for every candidate."""
        if "tokens" in self.config.recompute and torch.is_grad_enabled():
            tokens = checkpoint(self.event_tokens, name, rows, batch, use_reentrant=False)
        else:
            tokens = self.event_tokens(name, rows, batch)
        if not self._is_half("layers", batch.group.device):
            tokens = tokens.float()  # tokens in bf16 do not make the layers bf16
        with self._cast("layers", batch.group.device):
            return self.encoders[name](tokens, batch.sequences[name].lengths, view)

    def _cast(self, part: str, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._is_half(part, device))

    def _is_half(self, part: str, device: torch.device) -> bool:
        precision: Precision = getattr(self.config.precision, part)
        return precision == "bf16" or (precision == "auto" and device.type == "cuda")


def _encoder(config: ModelConfig, candidate_dim: int, context_dim: int) -> Longer | Din | SumPooling:
    if config.name == "longer":
        inputs = config.head.inputs
        return Longer(config, candidate_dim, context_dim, "sequence_mean" in inputs, "globals" in inputs)
    if config.name == "din":
        return Din(config.tokens.width, candidate_dim, config.din.hidden)
    return SumPooling(config.tokens.width)


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


def _check(schema: Schema, config: ModelConfig) -> None:
    if config.name == "longer" and not {"globals", "sequence_mean"} & set(config.head.inputs):
        raise ConfigError(
            "model.head.inputs: longer gives globals and sequence_mean, and the head would see neither; "
            f"expected at least one of them, got {config.head.inputs}"
        )
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
