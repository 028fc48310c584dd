"""Weak labels: which events are taken for positive while a probe is fitted, known by event, by session or by user.

Coarse labels are enough: probes of single tokens that were fitted on labels of sentences or documents found single
tokens nearly as well (arXiv 2601.21571, section 6)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from dist_rec.common.strict import ConfigError, Strict
from dist_rec.data.columns import ragged_values, scalar_values
from dist_rec.data.id_files import read_ids
from dist_rec.data.owners import SequenceSchema
from dist_rec.data.schema import Schema

Level = Literal["event", "session", "user"]


class Sessions(Strict):
    """What a session is, and from which share of its events on it has their label."""

    gap_s: float = Field(default=1_800.0, gt=0, description="A longer pause, in seconds, ends a session.")
    share: float = Field(default=0.5, gt=0, le=1)


@dataclass(frozen=True)
class WeakLabels:
    """- `source`: `field=FILE`, events whose field has one of the ids in the file; or a column of 0 and 1 of the
      sequence, such as `history.is_bot`. At the level `user` a FILE of grouping keys
    - `level`: `session` gives all events of a session the label 1 if at least `sessions.share` of them have it"""

    source: str
    level: Level = "event"
    sessions: Sessions = field(default_factory=Sessions)

    def of(self, table: pa.Table, schema: Schema, sequence: SequenceSchema) -> NDArray[np.bool_]:
        """(N,) for the events of a sequence in validated rows. Raises ConfigError and DataError."""
        lengths = ragged_values(table, f"{sequence.name}.{sequence.ids[0].name}").lengths
        if self.level == "user":
            users = read_ids(self.source)
            return np.repeat(np.isin(scalar_values(table, schema.request.grouping_key), users), lengths)
        positive = self._of_events(table, sequence)
        return positive if self.level == "event" else self._of_sessions(positive, table, sequence, lengths)

    @property
    def column(self) -> str | None:
        """The column of the data that has the labels, if one has."""
        return None if self.level == "user" or "=" in self.source else self.source

    def check(self, sequence: SequenceSchema) -> None:
        """Raises ConfigError for labels that this sequence cannot have, and DataError for a file of ids."""
        if self.level == "session" and not sequence.time:
            raise ConfigError(f"--level session: expected a sequence with `time: true`, got {sequence.name} without")
        if self.level == "user":
            read_ids(self.source)
        elif "=" in self.source:
            name, _, file = self.source.partition("=")
            known = [of.name for of in sequence.ids] + list(sequence.side)
            if name not in known:
                raise ConfigError(f"--labels {self.source}: expected a field of {sequence.name}: {', '.join(known)}")
            read_ids(file)
        elif not self.source.startswith(f"{sequence.name}."):
            raise ConfigError(
                f"--labels {self.source}: expected field=FILE, or a column of {sequence.name} such as "
                f"{sequence.name}.is_bot"
            )

    def _of_events(self, table: pa.Table, sequence: SequenceSchema) -> NDArray[np.bool_]:
        name, found, file = self.source.partition("=")
        if found:
            return np.isin(ragged_values(table, f"{sequence.name}.{name}").values, read_ids(Path(file)))
        if self.source not in table.column_names:
            raise ConfigError(
                f"--labels {self.source}: the data have no such column; expected field=FILE, or one of "
                f"{', '.join(name for name in table.column_names if name.startswith(sequence.name))}"
            )
        values = ragged_values(table, self.source).values
        if not np.isin(values, (0, 1)).all():
            raise ConfigError(
                f"--labels {self.source}: expected 0 and 1 only, got {values[~np.isin(values, (0, 1))][0]}"
            )
        return values.astype(bool)

    def _of_sessions(
        self, positive: NDArray[np.bool_], table: pa.Table, sequence: SequenceSchema, lengths: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        if not len(positive):
            return positive
        time = ragged_values(table, f"{sequence.name}.time").values.astype(np.int64)
        starts = np.diff(time, prepend=time[:1]) > self.sessions.gap_s
        starts[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
        session = np.cumsum(starts) - 1
        share = np.bincount(session, positive) / np.bincount(session)
        return (share >= self.sessions.share)[session]
