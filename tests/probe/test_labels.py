"""Weak labels of three levels, and what cannot be a label."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.data.columns import ragged_values
from dist_rec.data.schema_file import load_schema
from dist_rec.probe.labels import Level, Sessions, WeakLabels
from tests.probe.data import DOMAIN, read


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "ids.txt").write_text("\n".join(map(str, DOMAIN)))
    return tmp_path / "ids.txt"


def test_events_by_a_file_and_by_a_column(data: Path, file: Path) -> None:
    table, schema = read(data), load_schema(data)
    (sequence,) = schema.sequences
    wanted = np.isin(ragged_values(table, "history.category").values, DOMAIN)
    for source in (f"category={file}", "history.is_forget"):
        assert np.array_equal(WeakLabels(source).of(table, schema, sequence), wanted)


def test_sessions_have_the_label_of_enough_of_their_events(data: Path, file: Path) -> None:
    table, schema = read(data), load_schema(data)
    (sequence,) = schema.sequences
    found = WeakLabels(f"category={file}", "session", Sessions(gap_s=600, share=0.4)).of(table, schema, sequence)
    wanted = np.isin(ragged_values(table, "history.category").values, DOMAIN)
    time, of = ragged_values(table, "history.time"), []
    for start, stop in itertools.pairwise(time.offsets):
        session: list[int] = []
        for i in range(start, stop):
            if session and time.values[i] - time.values[i - 1] > 600:
                of += [np.mean(wanted[session]) >= 0.4] * len(session)
                session = []
            session.append(i)
        of += [np.mean(wanted[session]) >= 0.4] * len(session)
    assert found.tolist() == of and 0 < found.mean() < 1
    assert (found != wanted).any(), "they are coarse"


def test_users_have_the_label_of_all_their_requests(data: Path, tmp_path: Path) -> None:
    table, schema = read(data), load_schema(data)
    (sequence,) = schema.sequences
    users = table.column("user").to_numpy()
    np.save(tmp_path / "users.npy", np.unique(users)[:5])
    found = WeakLabels(str(tmp_path / "users.npy"), "user").of(table, schema, sequence)
    lengths = ragged_values(table, "history.item").lengths
    assert np.array_equal(found, np.repeat(np.isin(users, np.unique(users)[:5]), lengths)) and found.any()


@pytest.mark.parametrize(
    ("source", "level", "timed", "told"),
    [
        ("category={}", "session", False, "expected a sequence with `time: true`"),
        ("colour={}", "event", True, "expected a field of history: item, category, action"),
        ("other.column", "event", True, "expected field=FILE, or a column of history"),
    ],
)
def test_labels_that_the_sequence_cannot_have(
    data: Path, file: Path, source: str, level: Level, timed: bool, told: str
) -> None:
    sequence = load_schema(data).sequences[0].model_copy(update={"time": timed})
    with pytest.raises(ConfigError, match=told):
        WeakLabels(source.format(file), level).check(sequence)


def test_a_column_has_to_be_there_and_of_0_and_1(data: Path) -> None:
    table, schema = read(data), load_schema(data)
    (sequence,) = schema.sequences
    with pytest.raises(ConfigError, match=r"history.is_bot: the data have no such column"):
        WeakLabels("history.is_bot").of(table, schema, sequence)
    with pytest.raises(ConfigError, match=r"history.category: expected 0 and 1 only, got [2-7]"):
        WeakLabels("history.category").of(table, schema, sequence)
    assert WeakLabels("history.is_bot").column == "history.is_bot"
    assert WeakLabels("item=x").column is None and WeakLabels("x", "user").column is None
