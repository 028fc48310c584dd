"""The dense part of a model: embedding rows and a batch in, one logit per candidate and task out. Knows one device
only."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from dist_rec.common.strict import ConfigError
from dist_rec.data.batch import SequenceBatch
from dist_rec.data.kinds import attributes_of_keys, request_features
from dist_rec.data.later import FEEDBACK
from dist_rec.data.numbers import as_sent
from dist_rec.data.owners import SequenceSchema
from dist_rec.data.schema import Schema
from dist_rec.kernels.gather_pool import expand, pool
from dist_rec.models.config import ModelConfig, Precision
from dist_rec.models.features import FeatureColumns, widened
from dist_rec.models.late_fusion import LateFusion
from dist_rec.models.layers.attributes import Attributes
from dist_rec.models.layers.delay import num_rates
from dist_rec.models.layers.event_ngrams import EventNgrams, NgramField
from dist_rec.models.layers.feedback import FeedbackEncoder
from dist_rec.models.layers.half_weights import HalfWeights
from dist_rec.models.layers.heads import Head
from dist_rec.models.layers.jagged import CandidateView, SequenceInputs
from dist_rec.models.layers.numbers import EventColumns, NumberTerm
from dist_rec.models.layers.recompute import run
from dist_rec.models.layers.request_features import RequestFeatures
from dist_rec.models.layers.sequence_pool import SequencePool
from dist_rec.models.layers.tokens import BucketTerm, EventTokens
from dist_rec.models.layers.twins import twins_alone, with_twins
from dist_rec.models.options import ModelOptions
from dist_rec.models.protocol import Model, ModelInputs, SequenceModel, SequenceSummary
from dist_rec.registry import MODELS


class Ranker(nn.Module):
    """Event tokens of every sequence, what the model makes of them for every candidate (`body`), and the head.

    `table_dims` gives the width of the rows of each table. Forward: rows by feature set (U, D_set) and the batch ->
    scores (C, T + R): a logit for each task, then what a correction of delay asks for each of the R tasks with a
    horizon. A batch with feedback has the scores of the F twins after them, (C + F, T + R), or with `twins_only` no
    others."""

    def __init__(self, schema: Schema, config: ModelConfig, table_dims: dict[str, int]) -> None:
        super().__init__()
        self.schema, self.config, self.options = schema, config, config.resolved_options()
        layout, self.table_dims = schema.layout, dict(table_dims)
        self.candidate_set = layout.owners["candidate"].name
        self.sequence_sets = {sequence.name: layout.owners[sequence.name].name for sequence in schema.sequences}
        self.candidate_dynamic = nn.ModuleDict(
            {n: nn.Embedding(size, config.tokens.side_dim) for n, size in schema.side_values(schema.candidate).items()}
        )
        self.candidate_numbers = nn.ModuleDict(
            {n: NumberTerm(of, config.tokens.side_dim) for n, of in as_sent(schema.candidate.numbers).items()}
        )
        self.request = RequestFeatures(schema, config.tokens.side_dim) if request_features(schema) else None
        self.attributes = Attributes(schema, table_dims, config.tokens) if attributes_of_keys(schema) else None
        dims = widened(schema, table_dims, config.tokens)
        row_dims = {n: sum(dims[layout.tables[key]] for key in of.keys) for n, of in layout.feature_sets.items()}
        ngrams = _event_ngrams(schema, table_dims, dims)
        columns = FeatureColumns.of(schema, dims, config.tokens.side_dim)
        context_dim = row_dims.get("context", 0) + (0 if self.request is None else self.request.width)
        context_dim += sum(dims[of.table] for of in schema.request.lists.values())
        inputs = ModelInputs(config, tuple(self.sequence_sets), columns, columns.total - context_dim, context_dim)
        tokens = {
            s.name: EventTokens(
                config.tokens,
                row_dims[self.sequence_sets[s.name]],
                schema.side_values(s),
                s.time,
                self.options.dropout,
                ngrams.get(s.name),
                _event_columns(schema, s),
            )
            for s in schema.sequences
        }
        self.tokens = nn.ModuleDict(tokens)
        pooled = tokens if self.options.wants_pools() else {}
        self.pools = nn.ModuleDict(
            {n: SequencePool(row_dims[self.sequence_sets[n]], t, config.tokens.width) for n, t in pooled.items()}
        )
        self.body = _body(MODELS.resolve(config.name), self.options, inputs)
        self.head_inputs = self.options.head_inputs(config)
        self.head_width = self.body.width + inputs.candidate_dim * ("candidate" in self.head_inputs)
        self.head_width += context_dim * ("context" in self.head_inputs)
        self.head = Head(config.head, self.head_width, len(schema.candidate.labels) + num_rates(schema, config.head))
        self.feedback = self._feedback_encoder(dims)
        self.apply(_start_small)
        self._weights = {name: HalfWeights(part) for name, part in (("layers", self.body), ("head", self.head))}
        self._ngram_weights = {name: HalfWeights(part) for name, part in ngrams.items()}
        self._token_weights = {name: HalfWeights(part) for name, part in self.tokens.items()}

    def forward(self, rows: dict[str, Tensor], batch: SequenceBatch, *, twins_only: bool = False) -> Tensor:
        rows = rows if self.attributes is None else self.attributes(rows, batch)
        view, layout = self.candidates(rows, batch), None
        if self.feedback is not None and batch.feedback is not None:
            with self._cast("tokens", batch.grouping_key.device):
                tokens = self.feedback(rows.get(self.feedback_set or ""), batch.feedback)
            if twins_only:
                view = twins_alone(view, batch.feedback, tokens)
            else:
                view, layout = with_twins(view, batch.feedback, tokens)
        scores = self._scores(rows, batch, view)
        return scores if layout is None else layout.apart(scores)

    def _scores(self, rows: dict[str, Tensor], batch: SequenceBatch, view: CandidateView) -> Tensor:
        """Of every candidate of the view, in its order."""
        sequences = self.sequences(rows, batch, view)
        with self.layers_cast(batch.grouping_key.device):
            features = self.body(sequences, view)
        return self.head_scores(features, view)

    @contextmanager
    def layers_cast(self, device: torch.device) -> Iterator[bool]:
        """Inside, the body computes as the recipe says; gives whether that is bf16."""
        with self._cast("layers", device, self._weights["layers"]):
            yield self._is_half("layers", device)

    def head_scores(self, features: list[Tensor], view: CandidateView) -> Tensor:
        """(C, T + R) of what the body made of every candidate."""
        if "candidate" in self.head_inputs:
            features.append(view.features)
        if "context" in self.head_inputs and view.context is not None:
            features.append(view.of_request(view.context))
        with self._cast("head", view.features.device, self._weights["head"]):
            return self.head(torch.cat([part.float() for part in features], dim=1))

    def _feedback_encoder(self, dims: dict[str, int]) -> FeedbackEncoder | None:
        """None where no feedback is declared. Raises ConfigError if the model does not say how wide its tokens are."""
        feedback, layout = self.schema.candidate.feedback, self.schema.layout
        self.feedback_set = layout.owners[FEEDBACK].name if FEEDBACK in layout.owners else None
        if feedback is None:
            return None
        keys = () if self.feedback_set is None else layout.owners[FEEDBACK].keys
        row_dim = sum(dims[layout.tables[key]] for key in keys)
        side, width = self.schema.side_values(feedback), self.body.feedback_width
        if width < 1:
            raise ConfigError(
                f"model.name={self.config.name}: its options say READS_FEEDBACK, but its feedback_width is {width}; "
                "expected the width of the feedback tokens that its twins attend to, set where the model is made"
            )
        return FeedbackEncoder(self.config.tokens, feedback, row_dim, side, width)

    def candidates(self, rows: dict[str, Tensor], batch: SequenceBatch) -> CandidateView:
        parts = [expand(rows[self.candidate_set], batch.candidates.inverse)]
        parts += [embedding(batch.candidates.side[name].int()) for name, embedding in self.candidate_dynamic.items()]
        for name, of in self.schema.layout.candidate_ngrams.items():
            grams = expand(rows[name], batch.candidates.ngrams[name])  # (C M, D / M), those of a candidate adjacent
            parts.append(grams.view(batch.num_candidates, of.spec.tables * grams.shape[1]))
        parts += [term(batch.candidates.numbers[name]) for name, term in self.candidate_numbers.items()]
        parts += self._lists("candidate", rows, batch)
        context = [expand(rows["context"], batch.context)] if batch.context is not None else []
        if self.request is not None:
            assert batch.request is not None, "the schema declares them"
            context.append(self.request(batch.request))
        context += self._lists("context", rows, batch)
        of_request = torch.cat(context, dim=1) if len(context) > 1 else next(iter(context), None)
        prefix = batch.visible_events, batch.visible_slots
        return CandidateView(torch.cat(parts, dim=1), of_request, batch.candidates.lengths, *prefix)

    def _lists(self, owner: str, rows: dict[str, Tensor], batch: SequenceBatch) -> list[Tensor]:
        """(B, D) or (C, D) of every list of the requests or of the candidates: its rows pooled."""
        declared = self.schema.request.lists if owner == "context" else self.schema.candidate.lists
        found = []
        for name, of in declared.items():
            lists = batch.lists[f"{owner}.{name}"]
            found.append(pool(rows[f"{owner}.{name}"], lists.inverse, lists.lengths.offsets, mode=of.pool))
        return found

    def event_tokens(
        self,
        name: str,
        rows: dict[str, Tensor],
        batch: SequenceBatch,
        fused: Tensor | None,
        beside: Tensor | None = None,
    ) -> Tensor:
        """(N, d) tokens of one sequence; `fused` are its fields with n-grams and `beside` its numbers, if it has
        some."""
        with self._cast("tokens", batch.grouping_key.device, self._token_weights[name]):
            return self.tokens[name](rows[self.sequence_sets[name]], batch.sequences[name], fused, beside)

    def beside(self, name: str, batch: SequenceBatch) -> Tensor | None:
        """(N, K) columns of what the events of a sequence have beside rows and buckets; None without any."""
        tokens = self.tokens[name]
        assert isinstance(tokens, EventTokens)
        return None if tokens.columns is None else tokens.columns(batch.sequences[name], batch.request)

    def fused_fields(self, name: str, rows: dict[str, Tensor], batch: SequenceBatch) -> Tensor | None:
        """(N, Df) columns of the fields of a sequence that have n-grams; None without any."""
        tokens = self.tokens[name]
        assert isinstance(tokens, EventTokens)
        if tokens.ngrams is None:
            return None
        with self._cast("tokens", batch.grouping_key.device, self._ngram_weights[name]):
            return tokens.ngrams(rows[self.sequence_sets[name]], batch.sequences[name], rows)

    def sequences(self, rows: dict[str, Tensor], batch: SequenceBatch, view: CandidateView) -> SequenceInputs:
        """What the body reads of every sequence."""
        again, half = "tokens" in self.config.recompute, self._is_half("layers", batch.grouping_key.device)
        fused = {name: run(self.fused_fields, name, rows, batch, again=again) for name in self.tokens}
        beside = {name: self.beside(name, batch) for name in self.tokens}
        tokens = {
            name: run(self.event_tokens, name, rows, batch, fused[name], beside[name], again=again)
            for name in self.tokens
        }
        pools = {name: self._pool(name, rows, batch, view, fused[name], beside[name]) for name in self.pools}
        lengths = {name: batch.sequences[name].lengths for name in self.tokens}
        # Tokens in bf16 do not make the layers bf16.
        return SequenceInputs({name: t if half else t.float() for name, t in tokens.items()}, lengths, pools)

    def pool(self, name: str, rows: dict[str, Tensor], batch: SequenceBatch, view: CandidateView) -> Tensor:
        """(C, d) the pooled mean of a sequence."""
        return self._pool(name, rows, batch, view, self.fused_fields(name, rows, batch), self.beside(name, batch))

    def _pool(
        self,
        name: str,
        rows: dict[str, Tensor],
        batch: SequenceBatch,
        view: CandidateView,
        fused: Tensor | None,
        beside: Tensor | None,
    ) -> Tensor:
        events, tokens = batch.sequences[name], self.tokens[name]
        return self.pools[name](rows[self.sequence_sets[name]], events, tokens, view, fused, beside)

    @contextmanager
    def _cast(self, part: str, device: torch.device, weights: HalfWeights | None = None) -> Iterator[None]:
        half = self._is_half(part, device)
        with (
            # Where there is none to end, none is begun: a program of torch.export would keep it.
            torch.autocast(device.type, dtype=torch.bfloat16, enabled=half)
            if half or torch.is_autocast_enabled(device.type)
            else nullcontext(),
            weights.used(torch.bfloat16) if half and weights is not None else nullcontext(),
        ):
            yield

    def _is_half(self, part: str, device: torch.device) -> bool:
        precision: Precision = getattr(self.config.precision, part)
        return precision == "bf16" or (precision == "auto" and device.type == "cuda")


def _event_ngrams(schema: Schema, table_dims: dict[str, int], widened: dict[str, int]) -> dict[str, EventNgrams]:
    """Of every sequence that has fields with n-grams, which are fused with the row of the id alone."""
    found: dict[str, list[NgramField]] = {}
    for owner, of in schema.layout.ngrams.items():
        (sequence,) = (each for each in schema.sequences if each.name == of.sequence)
        start = sum(widened[field.table] for field in sequence.ids[: of.place])
        columns = slice(start, start + table_dims[of.base])
        found.setdefault(of.sequence, []).append(NgramField(of.field, owner, columns, of.spec))
    return {name: EventNgrams(fields) for name, fields in found.items()}


def _event_columns(schema: Schema, sequence: SequenceSchema) -> EventColumns | None:
    """None where the events have only rows and buckets."""
    numbers, cyclic = as_sent(sequence.numbers), sequence.time and schema.request.cyclic
    return EventColumns(numbers, cyclic=cyclic) if numbers or cyclic else None


def _body(model: type[Model], options: ModelOptions, inputs: ModelInputs) -> SequenceModel:
    if issubclass(model, SequenceSummary):
        return LateFusion(model, options, inputs)
    assert issubclass(model, SequenceModel), "a model is one of the two"
    return model(options, inputs)  # pyright: ignore[reportCallIssue] - how a model is made, see its base class


def _start_small(module: nn.Module) -> None:
    """Zero biases and small embeddings of positions, times and side values. Embedding rows start small too, and what
    feeds a LayerNorm is seen relative to its neighbours: with torch's defaults the biases and time terms are 30 times
    the ids' own signal."""
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, FeedbackEncoder):
        module.start_large()
    if isinstance(module, EventTokens):
        # Side values such as an answer's outcome carry signal from the start and, unlike rows, move at the dense rate.
        for term in module.dynamic.values():
            assert isinstance(term, BucketTerm)
            nn.init.normal_(term.embedding.weight, std=0.1)
