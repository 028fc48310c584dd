"""A probe of events, and the folder that holds one: `probe.safetensors` and `probe.json`. Nothing in it is ever run."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dist_rec.common.logistic import Logistic
from dist_rec.common.strict import ConfigError, Strict
from dist_rec.data.columns import ragged_values
from dist_rec.data.owners import SequenceSchema
from dist_rec.data.schema import Schema
from dist_rec.data.writer import staged
from dist_rec.probe.events import Events, read_events, turned_round, with_candidates
from dist_rec.probe.states import NextEvent, StatesConfig, states

KIND, WEIGHTS, FACTS = "probe", "probe.safetensors", "probe.json"
EVENTS_AT_ONCE = 65_536
DIRECTIONS = ("forward", "backward")


class ProbeFacts(Strict):
    """What a probe was fitted on.

    - `sequence` and what its events have: ids as (field, table, size), side values with their sizes, times
    - `states`: options of the models, and the `depth` whose states are read
    - `threshold` of the scores, chosen by `chosen_by`
    - `level` and `labels`: the weak labels; `found`: what was measured while it was fitted, by name
    """

    sequence: str
    ids: list[tuple[str, str, int]]
    side: dict[str, int]
    time: bool
    states: StatesConfig
    depth: int
    threshold: float
    chosen_by: str
    level: str
    labels: str
    found: dict[str, float]
    versions: dict[str, str]


def facts_of(schema: Schema, sequence: SequenceSchema) -> dict[str, Any]:
    """What a sequence must have for a probe to fit."""
    ids = [(field.name, field.table, schema.tables[field.table]) for field in sequence.ids]
    return {"sequence": sequence.name, "ids": ids, "side": dict(sequence.side), "time": sequence.time}


@dataclass(frozen=True)
class EventProbe:
    """Scores of events, from 0 to 1: how much an event and what is around it look like the positive ones.

    Both classes weigh alike in a score, however rare the positive ones are, so that it is no probability."""

    forward: NextEvent
    backward: NextEvent
    logistic: Logistic
    facts: ProbeFacts

    def score(self, table: pa.Table, schema: Schema, *, candidates: bool) -> tuple[NDArray, NDArray]:
        """Scores of the events (N,) and, if asked for, of the candidates (C,) of validated rows, float64."""
        sequence = next(of for of in schema.sequences if of.name == self.facts.sequence)
        found = [self._score(part, schema, sequence, candidates) for part in _parts(table, sequence)]
        return np.concatenate([events for events, _ in found]), np.concatenate([of for _, of in found])

    def _score(
        self, table: pa.Table, schema: Schema, sequence: SequenceSchema, candidates: bool
    ) -> tuple[NDArray, NDArray]:
        models = (self.forward, self.backward)
        both = states_of(models, table, schema, sequence, depth=self.facts.depth, candidates=candidates)
        return self.logistic.scores(both[0]), self.logistic.scores(both[1])

    def save(self, out: Path, *, force: bool = False) -> None:
        """Writes the folder as a whole; a probe that is there is replaced. Raises DataError as `staged`."""
        tensors = {f"logistic.{name}": value for name, value in vars(self.logistic).items()}
        for direction in DIRECTIONS:
            tensors |= {f"{direction}.{name}": of for name, of in getattr(self, direction).state_dict().items()}
        with staged(out, KIND, force=force) as folder:
            save_file({name: value.contiguous() for name, value in tensors.items()}, folder / WEIGHTS)
            (folder / FACTS).write_text(self.facts.model_dump_json(indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path, schema: Schema) -> "EventProbe":
        """Raises ConfigError if the folder holds no whole probe, or one of other data than the schema's."""
        facts = _read_facts(folder)
        _check_fits(folder, facts, schema)
        try:
            tensors = load_file(folder / WEIGHTS)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{folder / WEIGHTS}: expected the weights of a probe, got: {error}") from None
        sizes = [size for _, _, size in facts.ids]
        models = [NextEvent(sizes, list(facts.side.values()), facts.states) for _ in DIRECTIONS]
        try:
            for direction, model in zip(DIRECTIONS, models, strict=True):
                model.load_state_dict(_below(direction, tensors))
            logistic = Logistic(**_below("logistic", tensors))
        except (RuntimeError, TypeError) as error:
            told = " ".join(str(error).split())[:300]
            raise ConfigError(f"{folder / WEIGHTS}: does not fit {FACTS}; was it copied whole? {told}") from None
        forward, backward = (model.requires_grad_(False).eval() for model in models)
        return cls(forward, backward, logistic, facts)


def states_of(
    models: Sequence[NextEvent],
    table: pa.Table,
    schema: Schema,
    sequence: SequenceSchema,
    *,
    depth: int,
    candidates: bool,
) -> tuple[Tensor, Tensor]:
    """Forward and backward states side by side, of the events (N, 2 D) and of the candidates (C, 2 D), none of which is
    asked for unless `candidates`."""
    of_events: list[Tensor] = []
    of_candidates: list[Tensor] = []
    for model, is_backward in zip(models, (False, True), strict=True):
        events: Events = read_events(table, sequence, backward=is_backward)
        lengths = events.lengths
        if candidates:
            events = with_candidates(events, table, schema, sequence, backward=is_backward)
        found, is_event = states(model, events, depth), torch.from_numpy(events.is_event)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        mine = found[is_event]
        of_events.append(mine[torch.from_numpy(turned_round(offsets))] if is_backward else mine)
        of_candidates.append(found[~is_event])
    return torch.cat(of_events, dim=1), torch.cat(of_candidates, dim=1)


def _parts(table: pa.Table, sequence: SequenceSchema) -> list[pa.Table]:
    """Consecutive rows of about EVENTS_AT_ONCE events."""
    lengths = ragged_values(table, f"{sequence.name}.{sequence.ids[0].name}").lengths
    part = np.cumsum(lengths) // EVENTS_AT_ONCE
    cuts = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), table.num_rows]
    return [table.slice(start, stop - start) for start, stop in itertools.pairwise(cuts)]


def _read_facts(folder: Path) -> ProbeFacts:
    path = folder / FACTS
    if not path.is_file():
        raise ConfigError(f"{folder}: expected a folder made by `dist-rec filter fit`, got one without {FACTS}")
    try:
        return ProbeFacts.model_validate(json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        told = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": f"{error}"}
        place = ".".join(map(str, told["loc"])) or "the file"
        raise ConfigError(f"{path}: damaged, or of another version: {place}: {told['msg']}") from None


def _check_fits(folder: Path, facts: ProbeFacts, schema: Schema) -> None:
    sequence = next((of for of in schema.sequences if of.name == facts.sequence), None)
    if sequence is None:
        known = ", ".join(of.name for of in schema.sequences)
        raise ConfigError(f"{folder}: fitted on the sequence {facts.sequence}, but the data have {known}")
    now, saved = facts_of(schema, sequence), facts.model_dump()
    differing = [
        f"{name}: {saved[name]} when it was fitted, {now[name]} now" for name in now if saved[name] != now[name]
    ]
    if differing:
        raise ConfigError(f"{folder}: fitted on other data; expected the same\n  " + "\n  ".join(differing))


def _below(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): of for key, of in tensors.items() if key.startswith(f"{name}.")}
