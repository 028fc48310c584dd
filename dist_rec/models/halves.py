"""A ranker in two halves, as servers run it: what it makes of sequences, which knows no candidate, and the scores of
candidates given that. Together they are the ranker's forward; the layers and the code of features are its own.

Legend: B requests, C candidates, N events of one sequence, M groups of events (`SequenceModel.group_size`), T tasks.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dist_rec.data.batch import JaggedEvents, SequenceBatch
from dist_rec.data.lengths import Lengths
from dist_rec.kernels.gather_pool import expand
from dist_rec.models.layers.jagged import CandidateView, Jagged
from dist_rec.models.layers.tokens import EventTokens
from dist_rec.models.protocol import EventStates
from dist_rec.models.ranker import Ranker

Rows = dict[str, Tensor]  # by feature set (U, D_set), with the attributes of ids
States = dict[str, dict[str, Jagged]]  # of every sequence, by name


class Halves:
    """Of a ranker in evaluation. Candidates see all events of their request, and feedback is not read."""

    def __init__(self, ranker: Ranker) -> None:
        self.ranker = ranker.eval()

    def rows(self, looked_up: Rows, batch: SequenceBatch) -> Rows:
        """Rows of unique ids (U, D) by feature set, with the attributes of the ids."""
        attributes = self.ranker.attributes
        return looked_up if attributes is None else attributes(looked_up, batch)

    def inputs(self, name: str, batch: SequenceBatch) -> Tensor:
        """(N, K) int32: what the states of an event depend on beside its ids and their n-grams."""
        tokens, events = self._tokens(name), batch.sequences[name]
        beside = self.ranker.beside(name, batch)
        columns = [index.int() for index in tokens.places(events)]
        found = torch.stack(columns, dim=1) if columns else torch.empty(events.lengths.total, 0, dtype=torch.int32)
        return found if beside is None else torch.cat([found, beside.float().view(torch.int32)], dim=1)

    def event_states(self, name: str, rows: Rows, batch: SequenceBatch, events: JaggedEvents) -> EventStates:
        """Of whole groups: all `events` of a sequence of the batch, or some, whose lengths then have their places."""
        some = replace(batch, sequences={**batch.sequences, name: events})
        fused, beside = self.ranker.fused_fields(name, rows, some), self.ranker.beside(name, some)
        tokens = self.ranker.event_tokens(name, rows, some, fused, beside)
        with self.ranker.layers_cast(tokens.device) as half:
            return self.ranker.body.event_states(name, tokens if half else tokens.float(), events.lengths)

    def pools(self, rows: Rows, batch: SequenceBatch) -> Rows:
        """(B, D) of every sequence, where the model reads its pooled mean."""
        return {name: self.pool(name, rows, batch) for name in self.ranker.pools}

    def pool(self, name: str, rows: Rows, batch: SequenceBatch) -> Tensor:
        """(B, D) of one sequence."""
        device, requests = batch.grouping_key.device, len(batch.grouping_key)
        ones = Lengths(torch.ones(requests, dtype=torch.int32, device=device), np.ones(requests, np.int32))
        one = CandidateView(torch.empty(requests, 0), None, ones, None)
        return self.ranker.pool(name, rows, batch, one)

    def row_width(self, owner: str) -> int:
        """Of the rows of all fields of a sequence, of a candidate or of the context side by side."""
        layout = self.ranker.schema.layout
        return sum(self.ranker.table_dims[layout.tables[key]] for key in layout.owners[owner].keys)

    def encode(self, name: str, states: EventStates, groups: Lengths, device: torch.device) -> dict[str, Jagged]:
        """What scores need of a sequence beside its kept states; `groups` of the requests."""
        with self.ranker.layers_cast(device):
            return self.ranker.body.encode(name, states, groups)

    def score(
        self, rows: Rows, batch: SequenceBatch, states: States, lengths: dict[str, Lengths], pools: Rows
    ) -> Tensor:
        """(C, T) float32 logits of the candidates of a batch; its own sequences are not read, `lengths` of the kept
        ones are in events."""
        view = self.ranker.candidates(rows, batch)
        view = replace(view, prefix_len=None, prefix_slots=None)
        of_candidates = {name: expand(pool, view.request) for name, pool in pools.items()}
        with self.ranker.layers_cast(batch.grouping_key.device):
            features = self.ranker.body.score(states, lengths, of_candidates, view)
        return self.ranker.head_scores(features, view)[:, : len(self.ranker.schema.candidate.labels)]

    def _tokens(self, name: str) -> EventTokens:
        tokens = self.ranker.tokens[name]
        assert isinstance(tokens, EventTokens), "made so"
        return tokens
