"""Learners' answers to exercises, ASSISTments 2009 and Statics 2011; the task is whether the next answer is correct.

Files `assist2009_pid_test1.csv` ... `5` or `statics_test1.csv` ... `5` are the five folds, disjoint by user. They
become the splits `fold1` ... `fold5`. A row is one user. The history is all events of the user, with the answer as
side value `correct`. Every event is also a candidate that sees only the events before it.

ASSISTments repeats an answer for every skill of its problem. Later events of such a run would have their own label in
the history, so the importer keeps only the first one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from dist_rec.data.columns import Ints, list_column
from dist_rec.data.errors import DataError
from dist_rec.data.id_field import IdField
from dist_rec.data.importers.source import (
    Importer,
    ImportSummary,
    is_there,
    line_error,
    read_text,
    to_integers,
    write_dataset,
)
from dist_rec.data.owners import CandidateSchema, RequestSchema, SequenceSchema
from dist_rec.data.schema import Schema

FOLDS = (1, 2, 3, 4, 5)
ROWS_PER_GROUP = 16  # users are few, and every rank should get its share


@dataclass(frozen=True)
class _Format:
    """The lines of one user: a head, one line per entry of `fields`, and the labels."""

    name: str
    file: str
    fields: tuple[str, ...]
    collapse: bool


ASSIST2009 = _Format("assist2009", "assist2009_pid_test{}.csv", ("problem", "skill"), collapse=True)
STATICS2011 = _Format("statics2011", "statics_test{}.csv", ("exercise",), collapse=False)
FORMATS = (ASSIST2009, STATICS2011)


@dataclass(frozen=True)
class _User:
    group: int
    fields: list[Ints]  # per field: (L,) raw ids
    correct: Ints  # (L,)


class Assist(Importer):
    """assist2009 or statics2011, whichever has its files in the folder; `out` defaults to data/<name of the set>."""

    def __call__(self, source: Path, out: Path | None = None, *, force: bool = False) -> ImportSummary:
        kind = next((kind for kind in FORMATS if is_there(source, kind.file.format(1))), None)
        if kind is None:
            expected = " or ".join(kind.file.format(1) for kind in FORMATS)
            raise DataError(f"{source}: expected {expected} (plain or .xz), got neither")
        folds: dict[str, list[_User]] = {}
        for fold in FOLDS:
            folds[f"fold{fold}"] = _read_fold(source, kind, fold, first_group=sum(map(len, folds.values())))
        events = sum(len(user.correct) for users in folds.values() for user in users)
        if kind.collapse:
            folds = {name: [_first_of_runs(user) for user in users] for name, users in folds.items()}
        candidates = {name: sum(len(user.correct) for user in users) for name, users in folds.items()}
        out = out or Path("data") / kind.name
        everyone = [user for users in folds.values() for user in users]
        known = [np.unique(np.concatenate(column)) for column in zip(*(user.fields for user in everyone))]
        tables = {name: [_table(kind, users, known)] for name, users in folds.items()}
        schema = _schema(kind, [len(ids) for ids in known])
        rows = write_dataset(source, out, schema, tables, rows_per_group=ROWS_PER_GROUP, force=force)
        dropped = {}
        if kind.collapse:
            dropped["events that repeat the problem of the event before"] = events - sum(candidates.values())
        return ImportSummary(kind.name, out, rows, candidates, dropped)


def _read_fold(src: Path, kind: _Format, fold: int, first_group: int) -> list[_User]:
    path, lines = read_text(src, kind.file.format(fold))
    per_user = len(kind.fields) + 2
    if len(lines) % per_user:
        raise line_error(path, len(lines), f"a multiple of {per_user} lines ({per_user} a user)", f"{len(lines)} lines")
    starts = range(0, len(lines), per_user)
    return [_read_user(path, lines, start, kind, first_group + index) for index, start in enumerate(starts)]


def _read_user(path: Path, lines: Sequence[str], start: int, kind: _Format, group: int) -> _User:
    """One user from line `start` (from 0): a head that is not needed, the fields, the labels."""
    names = (*kind.fields, "label")
    columns = [_integers(path, lines, start + 1 + index, name) for index, name in enumerate(names)]
    for index, column in enumerate(columns):
        if len(column) != len(columns[0]):
            expected = f"{len(columns[0])} values of {names[index]}, as many as of {names[0]}"
            raise line_error(path, start + 2 + index, expected, str(len(column)))
    *fields, correct = columns
    if (bad := (correct != 0) & (correct != 1)).any():
        raise line_error(path, start + len(names) + 1, "labels of 0 or 1", str(correct[np.argmax(bad)]))
    return _User(group, fields, correct)


def _integers(path: Path, lines: Sequence[str], index: int, name: str) -> Ints:
    texts = lines[index].rstrip(",").split(",")
    return to_integers(texts, lambda _, got: line_error(path, index + 1, f"integers as {name}", got))


def _first_of_runs(user: _User) -> _User:
    """The events whose problem differs from the problem of the event before."""
    problem = user.fields[0]
    keep = np.concatenate([[True], problem[1:] != problem[:-1]])
    return _User(user.group, [field[keep] for field in user.fields], user.correct[keep])


def _table(kind: _Format, users: list[_User], known: list[Ints]) -> pa.Table:
    lengths = np.array([len(user.correct) for user in users])
    columns = {"user": pa.array([user.group for user in users])}
    for index, name in enumerate(kind.fields):
        ids = np.searchsorted(known[index], np.concatenate([user.fields[index] for user in users]))
        columns |= {f"history.{name}": list_column(lengths, ids), f"candidate.{name}": list_column(lengths, ids)}
    correct = list_column(lengths, np.concatenate([user.correct for user in users]))
    visible = list_column(lengths, np.concatenate([np.arange(length) for length in lengths]))
    return pa.table(
        columns | {"history.correct": correct, "candidate.correct": correct, "candidate.visible_events": visible}
    )


def _schema(kind: _Format, sizes: list[int]) -> Schema:
    token = [IdField(name=name, table=name) for name in kind.fields]
    return Schema(
        name=kind.name,
        tables=dict(zip(kind.fields, sizes)),
        request=RequestSchema(grouping_key="user", time=None),
        sequences=[SequenceSchema(name="history", ids=token, side={"correct": 2}, time=False)],
        candidate=CandidateSchema(ids=token, labels=["correct"], visible_events=True, oracle=False),
        feature_groups={name: [f"candidate.{name}"] for name in kind.fields},
    )
