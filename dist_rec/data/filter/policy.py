"""How a filter decides: from columns of the data, rules over fields, or a policy of one's own.

Legend: B requests, N events of one owner, which is a sequence or `candidate`.
"""

from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dist_rec.common.strict import ConfigError, Strict
from dist_rec.data.files import warn_once
from dist_rec.data.filter.actions import Action, Reason
from dist_rec.data.filter.config import FilterConfig, FilterRule
from dist_rec.data.filter.events import Events, owner_of, owners_of
from dist_rec.data.id_files import read_ids
from dist_rec.data.schema import Schema

DAY_SECONDS = 86_400
MOST_FLAGS = 2**26  # values of a field up to which one flag per value is kept
OF_REQUEST = "context."


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


def decided(policy: FilterPolicy, events: Events) -> NDArray[np.uint8]:
    """(N,) actions of a policy. Raises ConfigError if one of one's own decides something else."""
    actions = np.asarray(policy.decide(events))
    if actions.shape != (len(events),) or actions.dtype.kind not in "iu":
        got = f"{actions.dtype} of shape {actions.shape}"
    elif len(actions) and not 0 <= actions.min() <= actions.max() <= max(Action):
        got = f"integers from {actions.min()} to {actions.max()}"
    else:
        return actions.astype(np.uint8, copy=False)
    raise ConfigError(
        f"data.filter.policy={type(policy).__qualname__}: expected an action from 0 to {max(Action)} for each of "
        f"{len(events)} events of {events.owner}, got {got}"
    )


class Rules(FilterPolicy):
    """The columns `reason` and `score` of the data, and the rules of the recipe.

    Raises ConfigError for a rule without events that it could match, and if there is nothing to decide by; DataError
    for a file of ids that cannot be read."""

    def __init__(self, options: Strict, config: FilterConfig, schema: Schema) -> None:
        super().__init__(options, config, schema)
        owners = owners_of(schema)
        self.rules: dict[str, list[_Rule]] = {owner: [] for owner in owners}
        for number, rule in enumerate(config.rules):
            place = f"data.filter.rules[{number}]"
            named, of_request = _owners_of(rule, place, schema, owners)
            made = _Rule(rule, place, _size_of(rule, schema, named, of_request), of_request)
            for owner in named:
                self.rules[owner].append(made)
        declared = [*schema.sequences, schema.candidate]
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
            # As they are stored: the threshold is not rounded to half precision.
            bits = bits | _bit(self.config.score.reason) * (events.score.astype(np.float64) > self.config.score.above)
        for rule in self.rules[events.owner]:
            bits = bits | rule.reason * rule.matches(events)
        return bits


class _Rule:
    """One rule for all of its owners. `size` is how many values its field has, or None if any 64 bits may come.

    Raises ConfigError for ids none of which the field can have."""

    def __init__(self, rule: FilterRule, place: str, size: int | None, of_request: bool) -> None:
        self.reason, self.of_request = _bit(rule.reason), of_request
        self.field = None if rule.field is None else rule.field.removeprefix(OF_REQUEST)
        self.most_age = None if rule.older_than_days is None else rule.older_than_days * DAY_SECONDS
        self.ids, self.flags = np.zeros(0, np.int64), None
        if rule.field is None:
            return
        unsigned = np.array([value % 2**64 for value in rule.values], np.uint64)
        self.ids = np.unique(unsigned.view(np.int64))  # an unsigned hash is the integer of the same bits
        if rule.file is not None:
            self.ids = read_ids(rule.file)
            if not len(self.ids):  # a list of what is to be deleted may begin empty, and grow
                warn_once(f"{place}: {rule.file} has no ids, so the rule filters nothing")
        there = self.ids if size is None else self.ids[(self.ids >= 0) & (self.ids < size)]
        if len(self.ids) and size is not None and not len(there):
            raise ConfigError(
                f"{place}: expected values of {rule.field} from 0 to {size - 1}, got {len(self.ids)}, all outside"
            )
        if size is not None and size <= MOST_FLAGS:  # one flag per id is read faster than a place among ids is found
            self.flags = np.zeros(size + 1, bool)
            self.flags[there] = True

    def matches(self, events: Events) -> NDArray[np.bool_]:
        """(N,)"""
        if self.most_age is not None:
            assert events.age is not None, "the rule is for owners with times"
            return events.age > self.most_age
        assert self.field is not None, "a rule has a field or an age"
        if self.of_request:
            return self._among(events.of_request(self.field))[events.request]
        return self._among(events.field(self.field))

    def _among(self, values: NDArray) -> NDArray[np.bool_]:
        if self.flags is not None:
            return self.flags[values]
        if not len(self.ids):
            return np.zeros(len(values), bool)
        values = values.astype(np.int64, copy=False)
        place = np.searchsorted(self.ids, values)
        return self.ids[place.clip(max=len(self.ids) - 1)] == values


def _owners_of(rule: FilterRule, place: str, schema: Schema, owners: list[str]) -> tuple[list[str], bool]:
    """The owners whose events a rule is for, and whether its field is one of the request.

    Raises ConfigError if there are none, for a name that is none, or for a field that means two things."""
    for name in rule.of:
        if name not in owners:
            raise ConfigError(f"{place}.of: '{name}' is none of the events; these are: {', '.join(owners)}")
    asked = rule.of or owners
    if rule.older_than_days is not None:
        timed = [sequence.name for sequence in schema.sequences if sequence.time]
        return _all_of(rule, place, asked, timed, "times"), False
    assert rule.field is not None, "a rule has a field or an age"
    of_request = [*(context.name for context in schema.context), schema.request.grouping_key]
    having = [owner for owner in owners if rule.field in _fields(schema, owner)]
    if rule.field.removeprefix(OF_REQUEST) in of_request and (not having or rule.field.startswith(OF_REQUEST)):
        return asked, True
    if not having:
        known = dict.fromkeys([*(name for owner in owners for name in _fields(schema, owner)), *of_request])
        raise ConfigError(
            f"{place}.field: no event or request has a field '{rule.field}'; these are: {', '.join(known)}"
        )
    if rule.field in of_request and not rule.of:
        raise ConfigError(
            f"{place}.field: '{rule.field}' is a field of {', '.join(having)} and one of the request; expected "
            f"{OF_REQUEST}{rule.field} for the request's, or `of` with the events that are meant"
        )
    return _all_of(rule, place, asked, having, f"a field '{rule.field}'"), False


def _all_of(rule: FilterRule, place: str, asked: list[str], having: list[str], what: str) -> list[str]:
    """Those of the asked owners that have something. Raises ConfigError if there are none, or one that was named has
    not."""
    found = [owner for owner in asked if owner in having]
    lacking = [owner for owner in rule.of if owner not in having]
    if lacking or not found:
        raise ConfigError(f"{place}: expected events with {what}, but {', '.join(lacking or asked)} has none")
    return found


def _size_of(rule: FilterRule, schema: Schema, named: list[str], of_request: bool) -> int | None:
    """How many values the field has; None for a grouping key that is no context field, and for ids without a range."""
    if rule.field is None:
        return None
    name = rule.field.removeprefix(OF_REQUEST)
    if of_request:
        tables = [field.table for field in schema.context if field.name == name and field.table not in schema.open_ids]
        return schema.tables[tables[0]] if tables else None
    of = [owner_of(schema, owner) for owner in named]
    fields = [field.table for each in of for field in each.ids if field.name == name]
    if any(table in schema.open_ids for table in fields):
        return None
    return max([*(schema.tables[table] for table in fields), *(each.side[name] for each in of if name in each.side)])


def _fields(schema: Schema, owner: str) -> list[str]:
    of = owner_of(schema, owner)
    return [*(field.name for field in of.ids), *of.side]


def _bit(name: str) -> np.uint8:
    return np.uint8(Reason[name.upper()])
