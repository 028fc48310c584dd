"""What a filter would do to a dataset, before it does: events, candidates and users by reason and by action."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Table

from dist_rec.data.columns import CANDIDATE
from dist_rec.data.errors import DataError
from dist_rec.data.filter.actions import Action, Reason
from dist_rec.data.filter.config import FilterConfig
from dist_rec.data.filter.events import Events, owners_of
from dist_rec.data.filter.policy import FilterPolicy, decided
from dist_rec.data.inspect import split_folders
from dist_rec.data.row_reader import PARQUET, RowReader
from dist_rec.data.schema import Schema
from dist_rec.data.some_rows import SomeRows
from dist_rec.registry import FILTERS

EXAMPLES = 3  # of each reason


@dataclass
class SplitCounts:
    """One split. Events of every history, and of feedback if a teacher reads it, count each time they occur.

    - `events`, `candidates`, `users`, `requests`: all there are; `untrained`: requests none of whose candidates is
      trained
    - `by_reason`, `by_action`: name -> events, candidates, users with at least one of either
    - `examples`: events with a reason, in words
    """

    name: str
    events: int = 0
    candidates: int = 0
    requests: int = 0
    untrained: int = 0
    users: int = 0
    by_reason: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    by_action: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)


def filter_report(path: Path, schema: Schema, config: FilterConfig, reader: RowReader = PARQUET) -> list[SplitCounts]:
    """Reads a whole dataset, one row group at a time; histories as they are before `max_length`.

    Raises ConfigError, DataError."""
    policy = FILTERS.make(config.policy, config, schema)
    folders = split_folders(path)
    if not folders:
        raise DataError(f"{path}: expected at least one sub-folder with Parquet files, got none")
    return [_Tally(folder.name, schema, policy).over(folder, reader) for folder in folders]


class _Tally:
    def __init__(self, name: str, schema: Schema, policy: FilterPolicy) -> None:
        self.found, self.schema, self.policy = SplitCounts(name), schema, policy
        self.numbers: dict[str, NDArray[np.int64]] = {}  # of a reason or an action: events, candidates
        self.touched: dict[str, set[int]] = {}  # users
        self.users: set[int] = set()

    def over(self, folder: Path, reader: RowReader) -> SplitCounts:
        for group in reader.row_groups(folder, self.schema):
            table = reader.read([group], self.schema).combine_chunks()
            some = SomeRows(table, np.arange(table.num_rows))
            self.found.requests += len(some)
            self.users.update(some.scalars(self.schema.request.grouping_key).tolist())
            for owner in owners_of(self.schema):
                self._add(Events(some, self.schema, owner), f"{group.path}, row group {group.index}")
        found = self.found
        found.users = len(self.users)
        for kind, into in ((Reason, found.by_reason), (Action, found.by_action)):
            for name in (of.name.lower() for of in kind if of.name and of.name.lower() in self.numbers):
                events, candidates = self.numbers[name].tolist()
                into[name] = events, candidates, len(self.touched[name])
        return found

    def _add(self, events: Events, place: str) -> None:
        is_candidate = events.owner == CANDIDATE
        actions, reasons = decided(self.policy, events), self._reasons(events)
        users = events.of_request(self.schema.request.grouping_key)
        if is_candidate:
            self.found.candidates += len(events)
            trained = np.bincount(events.request, actions == Action.KEEP, len(events.lengths)) > 0
            self.found.untrained += int((~trained).sum())
        else:
            self.found.events += len(events)
        of_reason = ((reason.name, (reasons & reason) > 0) for reason in Reason) if reasons is not None else ()
        of_action = ((action.name, actions == action) for action in Action)
        for name, chosen in (*of_reason, *of_action):
            if name and (count := int(chosen.sum())):
                key = name.lower()
                self.numbers.setdefault(key, np.zeros(2, np.int64))[int(is_candidate)] += count
                self.touched.setdefault(key, set()).update(np.unique(users[events.request[chosen]]).tolist())
        if reasons is not None:
            self.found.examples += self._examples(events, actions, reasons, place)

    def _reasons(self, events: Events) -> NDArray[np.uint8] | None:
        """None of a policy that decides without reasons."""
        gives_none = type(self.policy).reasons is FilterPolicy.reasons
        return None if gives_none else self.policy.reasons(events)

    def _examples(
        self, events: Events, actions: NDArray[np.uint8], reasons: NDArray[np.uint8], place: str
    ) -> Iterator[str]:
        first = np.cumsum(events.lengths) - events.lengths
        for reason in Reason:
            shown = sum(line.startswith(f"{reason.name}".lower()) for line in self.found.examples)
            for index in np.flatnonzero(reasons & reason)[: max(EXAMPLES - shown, 0)]:
                row = events.request[index]
                fields = ", ".join(f"{name} {events.field(name)[index]}" for name in events.names)
                yield (
                    f"{reason.name}: ".lower() + f"{place}, row {row}, {events.owner} entry {index - first[row]}: "
                    f"{fields}; {Action(actions[index]).name.lower()}"
                )


def render(splits: list[SplitCounts]) -> RenderableType:
    """A table of shares, and examples."""
    table = Table(title="what the filter would do")
    for header in ("split", "", "events", "candidates", "users"):
        table.add_column(header, justify="left" if header in ("split", "") else "right")
    for of in splits:
        table.add_row(of.name, "all", f"{of.events:,}", f"{of.candidates:,}", f"{of.users:,}")
        for name, (events, candidates, users) in {**of.by_reason, **of.by_action}.items():
            shares = (_share(events, of.events), _share(candidates, of.candidates), _share(users, of.users))
            table.add_row("", name, *shares)
        table.add_row("", "requests left out", "", _share(of.untrained, of.requests), "", end_section=True)
    lines = [f"{of.name}: {line}" for of in splits for line in of.examples]
    return Group(table, *lines)


def _share(part: int, whole: int) -> str:
    return f"{part:,} ({part / max(whole, 1):.2%})"
