"""Logs of learners answering exercises, ASSISTments 2009 and Statics 2011: predict whether the next answer is correct.

Files `assist2009_pid_test1.csv` ... `5` or `statics_test1.csv` ... `5` are the five folds, disjoint by user; they
become the splits `fold1` ... `fold5`. A row is one user: the history is all the user's events with the answer as side
value `correct`, and every event is also a candidate that sees only the events before it.

ASSISTments writes an answer once per skill of the problem, so runs of one problem are a single answer whose label would
stand in its own history. Only the first event of each run is kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.data.columns import list_column
from dist_rec.data.errors import DataError
from dist_rec.data.importers.source import (
    Importer,
    ImportSummary,
    check_apart,
    is_there,
    line_error,
    read_text,
    to_integers,
)
from dist_rec.data.schema import CandidateSchema, IdField, RequestSchema, Schema, SequenceSchema
from dist_rec.data.writer import staged, write_schema, write_split

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


@dataclass(frozen=True)
class _User:
    group: int
    fields: list[NDArray[np.int64]]  # per field: (L,) raw ids
    correct: NDArray[np.int64]  # (L,)


class Assist(Importer):
    """assist2009 or statics2011, whichever has its five files in the folder. `out` is data/<name of the set> by
    default."""

    def __call__(self, source: Path, out: Path | None = None, *, force: bool = False) -> ImportSummary:
        """Raises DataError for missing files and malformed lines, and if the folder cannot be written, or replaced (see
        `staged`); nothing is written then."""
        found = [kind for kind in (ASSIST2009, STATICS2011) if is_there(source, kind.file.format(1))]
        if not found:
            expected = " or ".join(kind.file.format(1) for kind in (ASSIST2009, STATICS2011))
            raise DataError(f"{source}: expected {expected} (plain or .xz), got neither")
        kind = found[0]
        folds: dict[str, list[_User]] = {}
        for fold in FOLDS:
            folds[f"fold{fold}"] = _read_fold(source, kind, fold, first_group=sum(map(len, folds.values())))
        events = sum(len(user.correct) for users in folds.values() for user in users)
        if kind.collapse:
            folds = {name: [_first_of_runs(user) for user in users] for name, users in folds.items()}
        rows = {name: len(users) for name, users in folds.items()}
        candidates = {name: sum(len(user.correct) for user in users) for name, users in folds.items()}
        out = out or Path("data") / kind.name
        check_apart(source, out)
        _write(out, kind, folds, force=force)
        dropped = (
            {"events that repeat the problem of the event before": events - sum(candidates.values())}
            if kind.collapse
            else {}
        )
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


def _integers(path: Path, lines: Sequence[str], index: int, name: str) -> NDArray[np.int64]:
    texts = lines[index].rstrip(",").split(",")
    return to_integers(texts, lambda _, got: line_error(path, index + 1, f"integers as {name}", got))


def _first_of_runs(user: _User) -> _User:
    """The events whose problem differs from that of the event before."""
    problem = user.fields[0]
    keep = np.concatenate([[True], problem[1:] != problem[:-1]])
    return _User(user.group, [field[keep] for field in user.fields], user.correct[keep])


def _write(out: Path, kind: _Format, folds: dict[str, list[_User]], *, force: bool) -> None:
    users = [user for fold in folds.values() for user in fold]
    known = [np.unique(np.concatenate([user.fields[index] for user in users])) for index in range(len(kind.fields))]
    schema = _schema(kind, [len(ids) for ids in known])
    with staged(out, force=force) as folder:
        write_schema(folder, schema)
        for name, members in folds.items():
            write_split(folder / name, _table(kind, members, known), schema, rows_per_group=ROWS_PER_GROUP)


def _table(kind: _Format, users: list[_User], known: list[NDArray[np.int64]]) -> pa.Table:
    lengths = np.array([len(user.correct) for user in users])
    columns = {"user": pa.array([user.group for user in users])}
    for index, name in enumerate(kind.fields):
        ids = np.searchsorted(known[index], np.concatenate([user.fields[index] for user in users]))
        columns |= {f"history.{name}": list_column(lengths, ids), f"candidate.{name}": list_column(lengths, ids)}
    correct = list_column(lengths, np.concatenate([user.correct for user in users]))
    seen = list_column(lengths, np.concatenate([np.arange(length) for length in lengths]))
    return pa.table(
        columns | {"history.correct": correct, "candidate.correct": correct, "candidate.visible_events": seen}
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
