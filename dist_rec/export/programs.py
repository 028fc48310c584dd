"""A model as two programs of `torch.export`, of one user each: events -> states, and states -> logits of candidates.

They hold the dense weights and run wherever torch does, without this project: whoever runs them looks up ids. Inputs
and outputs are tensors by name; `forms.json` beside the programs says what each is.

Legend: N events of a sequence, C candidates, T tasks, n rows of a state, D width of the rows of all fields of an event,
a candidate or a context side by side.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dist_rec.data.batch import JaggedEvents, RequestValues, SequenceBatch
from dist_rec.data.columns import CANDIDATE, CONTEXT, REQUEST
from dist_rec.data.lengths import Lengths
from dist_rec.data.numbers import as_sent
from dist_rec.data.owners import CandidateSchema, SequenceSchema
from dist_rec.data.schema import Schema
from dist_rec.data.torchrec_types import NO_LOOKUP
from dist_rec.export.one_request import OneNumber, OneRequest, one_length
from dist_rec.models.halves import Halves
from dist_rec.models.layers.jagged import Jagged
from dist_rec.models.ranker import Ranker

Tensors = dict[str, Tensor]
EVENTS, CANDIDATES = "events", "candidates"  # names of dimensions; that of a sequence is "events.<name>"


@dataclass(frozen=True)
class Form:
    """One input: its `dtype`, and its `shape`, with the name of a dimension that may have any size."""

    dtype: torch.dtype
    shape: tuple[int | str, ...]


def why_not(ranker: Ranker) -> str | None:
    """Why a model cannot be two programs, as a sentence; None if nothing is known that speaks against it."""
    schema, layout = ranker.schema, ranker.schema.layout
    if ranker.config.name == "din":
        return "din makes every candidate a row with all events, which the one user of a program does not have"
    if layout.ngrams or layout.id_lists or any(schema.attributes.values()):
        return "programs take ids, side values, numbers and times; this schema has n-grams, lists or attributes of ids"
    return None


class EncodeProgram(nn.Module):
    """Inputs of `encode_forms` -> `<sequence>.<part>` (n, W), and `<sequence>.pool` (1, D) where the model reads it."""

    def __init__(self, halves: Halves) -> None:
        super().__init__()
        self.ranker = halves.ranker
        self.halves = halves

    def forward(self, given: Tensors) -> Tensors:
        with OneRequest():
            return self._states(given)

    def _states(self, given: Tensors) -> Tensors:
        schema, halves, found = self.ranker.schema, self.halves, Tensors()
        sequences = {of.name: _events(of.name, of, schema, given) for of in schema.sequences}
        batch = _batch(schema, sequences, _no_candidates(schema), given)
        rows = {self.ranker.sequence_sets[name]: given[f"{name}.rows"] for name in sequences}
        for name, events in sequences.items():
            # Sequences may share a feature set, and each has rows of its own here.
            own = {**rows, self.ranker.sequence_sets[name]: given[f"{name}.rows"]}
            size = self.ranker.body.group_size(name)
            groups = events.lengths.map(lambda n, size=size: (n + size - 1) // size)
            states = halves.event_states(name, own, batch, events)
            encoded = halves.encode(name, states, groups, torch.device("cpu"))
            found |= {f"{name}.{part}": of for part, of in states.kept.items()}
            found |= {f"{name}.{part}": of.values for part, of in encoded.items()}
            if name in self.ranker.pools:
                found[f"{name}.pool"] = halves.pool(name, own, batch)
        return found


class ScoreProgram(nn.Module):
    """What `EncodeProgram` gives, and inputs of `score_forms` -> (C, T) logits."""

    def __init__(self, halves: Halves, parts: Sequence[str]) -> None:
        super().__init__()
        self.ranker = halves.ranker
        self.halves, self.parts = halves, tuple(parts)

    def forward(self, states: Tensors, given: Tensors) -> Tensor:
        with OneRequest():
            return self._logits(states, given)

    def _logits(self, states: Tensors, given: Tensors) -> Tensor:
        schema = self.ranker.schema
        candidates = _events(CANDIDATE, schema.candidate, schema, given)
        batch = _batch(schema, {}, candidates, given)
        rows = {self.ranker.candidate_set: given[f"{CANDIDATE}.rows"]}
        if schema.context:
            rows[CONTEXT] = given[f"{CONTEXT}.rows"]
        kept: dict[str, dict[str, Jagged]] = {of.name: {} for of in schema.sequences}
        pools: Tensors = {}
        for name in self.parts:
            sequence, _, part = name.partition(".")
            if part == "pool":
                pools[sequence] = states[name]
            else:
                kept[sequence][part] = Jagged(states[name], one_length(states[name].shape[0]))
        lengths = {name: _events_of(parts, given[f"{name}.events"]) for name, parts in kept.items()}
        return self.halves.score(rows, batch, kept, lengths, pools)


def encode_forms(halves: Halves) -> dict[str, Form]:
    """The inputs of `EncodeProgram`; lists of events are oldest first."""
    schema = halves.ranker.schema
    found: dict[str, Form] = {}
    for of in schema.sequences:
        width = halves.row_width(of.name)
        found |= dict(_forms(of.name, of, width, f"{EVENTS}.{of.name}", schema))
    if schema.request.cyclic:
        found[f"{REQUEST}.week"] = Form(torch.int32, (1,))
    return found


def score_forms(halves: Halves) -> dict[str, Form]:
    """The inputs of `ScoreProgram` beside states."""
    schema = halves.ranker.schema
    found = dict(_forms(CANDIDATE, schema.candidate, halves.row_width(CANDIDATE), CANDIDATES, schema))
    if schema.context:
        found[f"{CONTEXT}.rows"] = Form(torch.float32, (1, halves.row_width(CONTEXT)))
    found |= {f"{of.name}.events": Form(torch.int32, (1,)) for of in schema.sequences}
    sent = as_sent(schema.request.numbers)
    for name in schema.request.numbers:
        found[f"{REQUEST}.{name}"] = Form(torch.float32 if name in sent else torch.int32, (1,))
    if schema.request.cyclic:
        found[f"{REQUEST}.week"] = Form(torch.int32, (1,))
    return found


def _forms(
    owner: str, declared: SequenceSchema | CandidateSchema, width: int, dim: str, schema: Schema
) -> Iterator[tuple[str, Form]]:
    yield f"{owner}.rows", Form(torch.float32, (dim, width))
    if isinstance(declared, SequenceSchema) and declared.time:
        yield f"{owner}.age", Form(torch.int32, (dim,))
    for name in schema.side_values(declared):
        yield f"{owner}.{name}", Form(torch.int32, (dim,))
    for name in as_sent(declared.numbers):
        yield f"{owner}.{name}", Form(torch.float32, (dim,))


def _events(owner: str, declared: SequenceSchema | CandidateSchema, schema: Schema, given: Tensors) -> JaggedEvents:
    count = given[f"{owner}.rows"].shape[0]
    return JaggedEvents(
        lengths=one_length(count),
        inverse=torch.arange(count),
        side={name: given[f"{owner}.{name}"] for name in schema.side_values(declared)},
        age=given.get(f"{owner}.age"),
        numbers={name: given[f"{owner}.{name}"] for name in as_sent(declared.numbers)},
    )


def _events_of(parts: dict[str, Jagged], count: Tensor) -> Lengths:
    """Of a sequence that is kept as tokens, of which there is one per event, or whose number alone is read."""
    if "tokens" in parts:
        return parts["tokens"].lengths
    return Lengths(count, OneNumber(0))  # pyright: ignore[reportArgumentType] - as an array


def _no_candidates(schema: Schema) -> JaggedEvents:
    return JaggedEvents(one_length(0), torch.arange(0), {})


def _batch(
    schema: Schema, sequences: dict[str, JaggedEvents], candidates: JaggedEvents, given: Tensors
) -> SequenceBatch:
    sent = as_sent(schema.request.numbers)
    side = {name: given.get(f"{REQUEST}.{name}") for name in schema.request.numbers if name not in sent}
    numbers: Any = {name: given.get(f"{REQUEST}.{name}") for name in sent}
    has_request = bool(side or numbers or schema.request.cyclic)
    total = candidates.lengths.total
    return SequenceBatch(
        unique=NO_LOOKUP,
        context=torch.zeros(1, dtype=torch.int32) if schema.context else None,
        sequences=sequences,
        candidates=candidates,
        labels=torch.zeros(total, len(schema.candidate.labels)),
        oracle=None,
        visible_events=None,
        grouping_key=torch.zeros(1, dtype=torch.int64),
        candidates_per_rank=torch.ones(()),
        request=RequestValues(side, numbers, given.get(f"{REQUEST}.week")) if has_request else None,  # pyright: ignore[reportArgumentType] - those of a request that is scored
    )
