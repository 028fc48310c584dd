"""Learners' answers to exercises, ASSISTments 2009 and Statics 2011; the task is whether the next answer is correct.

Files `assist2009_pid_test1.csv` ... `5` or `statics_test1.csv` ... `5` are the five folds, disjoint by user. They
become the splits `fold1` ... `fold5`. A request is one user. Every event is a candidate that sees only the events
before it, with the answer as side value `correct`; the last event is nobody's history.

ASSISTments repeats an answer for every skill of its problem. Later events of such a run would have their own label in
the history, so the importer keeps only the first one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from dist_rec.data.columns import Ints
from dist_rec.data.errors import DataError
from dist_rec.data.importers.built import Parsed, ParsedImporter
from dist_rec.data.importers.source import is_there, line_error, read_text, to_integers

FOLDS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class _Format:
    """The lines of one user: a head, one line per entry of `fields`, and the labels. `build`: the build file."""

    file: str
    build: str
    fields: tuple[str, ...]
    collapse: bool


ASSIST2009 = _Format("assist2009_pid_test{}.csv", "assist2009.yaml", ("problem", "skill"), collapse=True)
STATICS2011 = _Format("statics_test{}.csv", "statics2011.yaml", ("exercise",), collapse=False)
FORMATS = (ASSIST2009, STATICS2011)


class Assist(ParsedImporter):
    """assist2009 or statics2011, whichever has its files in the folder; `out` defaults to data/<name of the set>."""

    def parsed(self, source: Path) -> Parsed:
        kind = next((kind for kind in FORMATS if is_there(source, kind.file.format(1))), None)
        if kind is None:
            expected = " or ".join(kind.file.format(1) for kind in FORMATS)
            raise DataError(f"{source}: expected {expected} (plain or .xz), got neither")
        users = [(fold, user) for fold in FOLDS for user in _read_fold(source, kind, fold)]
        events = sum(len(user["correct"]) for _, user in users)
        if kind.collapse:
            users = [(fold, _first_of_runs(user, kind.fields[0])) for fold, user in users]
        lengths = [len(user["correct"]) for _, user in users]
        answers = {name: np.concatenate([user[name] for _, user in users]) for name in (*kind.fields, "correct")}
        table = pa.table(
            {
                "fold": np.repeat([f"fold{fold}" for fold, _ in users], lengths),
                "learner": np.repeat(np.arange(len(users)), lengths),
                "place": np.concatenate([np.arange(length) for length in lengths]),
            }
            | answers
        )
        dropped = {}
        if kind.collapse:
            dropped["events that repeat the problem of the event before"] = events - table.num_rows
        return Parsed(kind.build, {"answers": table}, dropped)


def _read_fold(src: Path, kind: _Format, fold: int) -> list[dict[str, Ints]]:
    """Per user, (L,) ids of every field and answers, `correct`."""
    path, lines = read_text(src, kind.file.format(fold))
    per_user = len(kind.fields) + 2
    if len(lines) % per_user:
        raise line_error(path, len(lines), f"a multiple of {per_user} lines ({per_user} a user)", f"{len(lines)} lines")
    return [_read_user(path, lines, start, kind) for start in range(0, len(lines), per_user)]


def _read_user(path: Path, lines: Sequence[str], start: int, kind: _Format) -> dict[str, Ints]:
    """One user from line `start` (from 0): a head that is not needed, the fields, the labels."""
    names = (*kind.fields, "label")
    columns = [_integers(path, lines, start + 1 + index, name) for index, name in enumerate(names)]
    for index, column in enumerate(columns):
        if len(column) != len(columns[0]):
            expected = f"{len(columns[0])} values of {names[index]}, as many as of {names[0]}"
            raise line_error(path, start + 2 + index, expected, str(len(column)))
    correct = columns[-1]
    if (bad := (correct != 0) & (correct != 1)).any():
        raise line_error(path, start + len(names) + 1, "labels of 0 or 1", str(correct[np.argmax(bad)]))
    return dict(zip((*kind.fields, "correct"), columns, strict=True))


def _integers(path: Path, lines: Sequence[str], index: int, name: str) -> Ints:
    texts = lines[index].rstrip(",").split(",")
    return to_integers(texts, lambda _, got: line_error(path, index + 1, f"integers as {name}", got))


def _first_of_runs(user: dict[str, Ints], field: str) -> dict[str, Ints]:
    """The events whose value of the field differs from that of the event before."""
    of = user[field]
    keep = np.concatenate([[True], of[1:] != of[:-1]])
    return {name: column[keep] for name, column in user.items()}
