"""The filter of a run: it decides about a batch in the reader worker, before any id is hashed, deduplicated or copied.

Legend: B requests, C candidates, N events of one owner.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dist_rec.data.columns import CANDIDATE
from dist_rec.data.filter.actions import Action
from dist_rec.data.filter.config import FilterConfig
from dist_rec.data.filter.events import Events
from dist_rec.data.filter.kept import Kept, kept_candidates, kept_events
from dist_rec.data.filter.policy import FilterPolicy, decided
from dist_rec.data.later import FEEDBACK
from dist_rec.data.schema import Schema
from dist_rec.data.some_rows import SomeRows
from dist_rec.registry import FILTERS


@dataclass(frozen=True)
class Left:
    """What is left of some requests.

    - `some`: the requests that are left
    - `kept`: owner -> what is left of its events; owners whose events all stay are missing
    - `untrained` (C,) bool: of the candidates that are left, those without a loss; None for none
    - `chosen` (C,) bool: of the candidates that are left, those the filter does not keep, for metrics; None in training
    - `counts`: events and candidates for each action; of requests that are left out only the candidates
    """

    some: SomeRows
    kept: dict[str, Kept] = field(default_factory=dict)
    untrained: NDArray[np.bool_] | None = None
    chosen: NDArray[np.bool_] | None = None
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class EventFilter:
    """A policy and where it acts: on histories, candidates, and their feedback.

    In training it acts from `start_step` on, and a request none of whose candidates is trained is left out: nothing of
    it would have a gradient. In evaluation all candidates stay and are only told apart; `histories` says whether
    histories are filtered there too."""

    policy: FilterPolicy
    training: bool
    start_step: int = 0
    histories: bool = True

    def acts(self, step: int) -> bool:
        """In batch number `step` of the run, from 0 on."""
        return not self.training or step >= self.start_step

    def left(self, some: SomeRows, schema: Schema, max_length: int | None) -> Left:
        """`schema` has HIDDEN where the policy may hide."""
        candidates = Events(some, schema, CANDIDATE)
        actions = decided(self.policy, candidates)
        counts = np.bincount(actions, minlength=len(Action))
        if not self.training:
            kept = self._histories(some, schema, max_length, counts) if self.histories else {}
            return Left(some, kept, chosen=actions != Action.KEEP, counts=_named(counts))
        rest = np.bincount(candidates.request, actions == Action.KEEP, len(some)) > 0
        if not rest.all():
            actions, some = actions[rest[candidates.request]], some.where(rest)
        kept = self._histories(some, schema, max_length, counts)
        of_candidates = kept_candidates(actions, candidates.lengths[rest])
        if of_candidates is not None:
            kept[CANDIDATE], actions = of_candidates, of_candidates.of(actions)
        if schema.feedback_read is not None and (of_feedback := self._feedback(some, schema, counts)) is not None:
            kept[FEEDBACK] = of_feedback
        masked = actions != Action.KEEP
        return Left(some, kept, untrained=masked if masked.any() else None, counts=_named(counts))

    def _histories(
        self, some: SomeRows, schema: Schema, max_length: int | None, counts: NDArray[np.int64]
    ) -> dict[str, Kept]:
        """What is left of every sequence; adds to `counts`."""
        found: dict[str, Kept] = {}
        for sequence in schema.sequences:
            events = Events(some, schema, sequence.name)
            actions = decided(self.policy, events)
            counts += np.bincount(actions, minlength=len(Action))
            if (kept := kept_events(actions, events.lengths, max_length)) is not None:
                found[sequence.name] = kept
        return found

    def _feedback(self, some: SomeRows, schema: Schema, counts: NDArray[np.int64]) -> Kept | None:
        """What is left of the candidates' feedback; adds to `counts`. It has no slots that could stay empty."""
        events = Events(some, schema, FEEDBACK)
        actions = decided(self.policy, events)
        counts += np.bincount(actions, minlength=len(Action))
        return kept_events(np.where(actions == Action.KEYMASK, Action.DROP, actions), events.lengths, None)


def needs_hidden(config: FilterConfig | None, schema: Schema) -> bool:
    """Whether a recipe's filter may hide events of this data."""
    return config is not None and config.hides(
        by_columns=any(of.reason for of in (*schema.sequences, schema.candidate))
    )


def make_filter(config: FilterConfig | None, schema: Schema, *, training: bool) -> EventFilter | None:
    """The filter of a recipe, None without one. Raises ConfigError, and DataError for a file of ids."""
    if config is None:
        return None
    policy = FILTERS.make(config.policy, config, schema)
    return EventFilter(policy, training, config.start_step, histories=training or config.evaluation == "filtered")


def _named(counts: NDArray[np.int64]) -> dict[str, int]:
    return {action.name.lower(): int(counts[action]) for action in Action}
