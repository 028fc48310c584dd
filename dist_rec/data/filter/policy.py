"""How a filter decides: from columns of the data, rules over fields, or a policy of one's own.

Legend: B requests, N events of one owner, which is a sequence or `candidate`.
"""

from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dist_rec.common.strict import ConfigError, Strict
from dist_rec.data.columns import CANDIDATE
from dist_rec.data.filter.actions import Action, Reason
from dist_rec.data.filter.config import FilterConfig, FilterRule
from dist_rec.data.filter.events import Events, owner_of
from dist_rec.data.id_files import read_ids
from dist_rec.data.schema import Schema

DAY_SECONDS = 86_400
MOST_FLAGS = 2**28  # ids of a table up to which one flag per id is kept


class FilterPolicy:
    """Base of all policies, made by `Name(options, config, schema)`. It goes to the reader processes, so it must be
    picklable. It decides by an event alone, not by the batch that the event is in or when it is read."""

    Config: ClassVar[type[Strict]] = Strict

    def __init__(self, options: Strict, config: FilterConfig, schema: Schema) -> None:
        self.options, self.config, self.schema = options, config, schema

    def decide(self, events: Events) -> NDArray[np.uint8]:
        """(N,) an `Action` for each event: by default the strongest one of its reasons."""
        return self.strongest[self.reasons(events)]

    def reasons(self, events: Events) -> NDArray[np.uint8]:
        """(N,) bits of `Reason`, 0 for events that stay as they are."""
        raise NotImplementedError

    @cached_property
    def strongest(self) -> NDArray[np.uint8]:
        """(32,) the action for every combination of reasons."""
        named = self.config.actions.model_dump()
        actions = {reason: Action[named[reason.name.lower()].upper()] for reason in Reason if reason.name}
        held = [[action for reason, action in actions.items() if bits & reason] for bits in range(2 * max(Reason))]
        return np.array([max(of, default=Action.KEEP) for of in held], np.uint8)


class Rules(FilterPolicy):
    """The columns `reason` and `score` of the data, and the rules of the recipe.

    Raises ConfigError for a rule without events that it could match, and if there is nothing to decide by; DataError
    for a file of ids that cannot be read."""

    def __init__(self, options: Strict, config: FilterConfig, schema: Schema) -> None:
        super().__init__(options, config, schema)
        owners = [*(sequence.name for sequence in schema.sequences), CANDIDATE]
        self.rules: dict[str, list[_Rule]] = {owner: [] for owner in owners}
        for number, rule in enumerate(config.rules):
            for owner in _owners_of(rule, f"data.filter.rules[{number}]", schema, owners):
                self.rules[owner].append(_Rule(rule, schema))
        declared = [owner_of(schema, owner) for owner in owners]
        if config.score is not None and not any(of.score for of in declared):
            raise ConfigError("data.filter.score: expected a schema with `score: true` for some events, got none")
        if not config.rules and config.score is None and not any(of.reason for of in declared):
            raise ConfigError(
                "data.filter: expected something to decide by: score, rules, a policy of one's own, or a schema with "
                "`reason: true` for some events"
            )

    def reasons(self, events: Events) -> NDArray[np.uint8]:
        bits = np.zeros(len(events), np.uint8) if events.reason is None else events.reason
        if self.config.score is not None and events.score is not None:
            bits = bits | _bit(self.config.score.reason) * (events.score > self.config.score.above)
        for rule in self.rules[events.owner]:
            bits = bits | rule.reason * rule.matches(events)
        return bits


class _Rule:
    def __init__(self, rule: FilterRule, schema: Schema) -> None:
        self.reason, self.field = _bit(rule.reason), rule.field
        self.most_age = None if rule.older_than_days is None else rule.older_than_days * DAY_SECONDS
        ids = np.unique(np.array(rule.values, np.int64)) if rule.file is None else read_ids(rule.file)
        self.ids = ids
        # One flag per id is read faster than a place in sorted ids is found.
        small = len(ids) and ids[0] >= 0 and ids[-1] < MOST_FLAGS
        self.flags = np.zeros(ids[-1] + 1, bool) if small else None
        if self.flags is not None:
            self.flags[ids] = True

    def matches(self, events: Events) -> NDArray[np.bool_]:
        """(N,)"""
        if self.most_age is not None:
            assert events.age is not None, "the rule is for owners with times"
            return events.age > self.most_age
        assert self.field is not None, "a rule has a field or an age"
        if self.field in events.names:
            return self._among(events.field(self.field))
        return self._among(events.of_request(self.field))[events.request]

    def _among(self, values: NDArray) -> NDArray[np.bool_]:
        if self.flags is None:
            return np.isin(values, self.ids)
        if values.dtype.kind == "u" or not len(values) or values.min() >= 0:
            return self.flags.take(values, mode="clip") & (values < len(self.flags))
        return np.isin(values, self.ids)


def _owners_of(rule: FilterRule, place: str, schema: Schema, owners: list[str]) -> list[str]:
    """The owners whose events a rule is for. Raises ConfigError if there are none, or for a name that is none."""
    for name in rule.of:
        if name not in owners:
            raise ConfigError(f"{place}.of: '{name}' is none of the events; these are: {', '.join(owners)}")
    asked = rule.of or owners
    if rule.older_than_days is not None:
        found = [sequence.name for sequence in schema.sequences if sequence.time and sequence.name in asked]
        if not found:
            raise ConfigError(f"{place}.older_than_days: expected a sequence with times among {', '.join(asked)}")
        return found
    field = rule.field
    of_request = [*(context.name for context in schema.context), schema.request.grouping_key]
    found = [owner for owner in asked if field in _fields(schema, owner) or field in of_request]
    if not found:
        known = dict.fromkeys([*(name for owner in asked for name in _fields(schema, owner)), *of_request])
        raise ConfigError(f"{place}.field: no event or request has a field '{field}'; these are: {', '.join(known)}")
    return found


def _fields(schema: Schema, owner: str) -> list[str]:
    of = owner_of(schema, owner)
    return [*(field.name for field in of.ids), *of.side]


def _bit(name: str) -> np.uint8:
    return np.uint8(Reason[name.upper()])
