"""Every form holds the same labels with the same histories; forms differ in what shares a request and a batch."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.sharing.forms import Form, forms, in_requests, make_synthetic
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.reader import RequestReader
from dist_rec.data.schema_file import load_schema
from dist_rec.data.synthetic.history import SynthConfig

LEVELS, LABELS = (1, 2, 8), 64


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("forms") / "data"
    config = SynthConfig(requests=200, candidates=8, users=12, mean_length=8, max_length=20, items=50)
    make_synthetic(out, config, LEVELS, LABELS)
    return out


def _labels(folder: Path) -> Counter[tuple]:
    """User, time, history, item, label and oracle of every label of a split."""
    found: Counter[tuple] = Counter()
    for row in pq.read_table(folder).to_pylist():
        history = tuple(tuple(row[f"history.{name}"]) for name in ("item", "category", "action", "time"))
        entries = zip(
            *(row[f"candidate.{name}"] for name in ("item", "category", "click", "click.oracle")), strict=True
        )
        found.update((row["user"], row["time"], history, *entry) for entry in entries)
    return found


def _epochs(made: Path, form: Form, epochs: int = 2) -> list[HostBatch]:
    schema = load_schema(made)
    requests = LABELS // form.candidates
    reader = RequestReader(
        folders=[made / form.folder],
        schema=schema,
        batch_size=requests,
        epochs=epochs,
        shuffle_window=form.window,
        seed=3,
    )
    return list(reader)


def test_the_same_labels_in_as_many_steps(made: Path) -> None:
    wanted = _labels(made / "candidates-8")
    steps = sum(wanted.values()) / LABELS
    assert steps == (160 * 8) // LABELS
    for form in forms(LEVELS).values():
        assert _labels(made / form.folder) == wanted
        batches = [batch.to("cpu") for batch in _epochs(made, form, epochs=1)]
        assert [len(batch.labels) for batch in batches] == [LABELS] * int(steps)


def _users_of_epochs(made: Path, form: Form) -> list[list[int]]:
    """Users of the requests of each of two epochs, in their order."""
    keys = np.concatenate([batch.to("cpu").grouping_key.numpy() for batch in _epochs(made, form)])
    return keys.reshape(2, -1).tolist()


def _changes_of_user(users: list[int]) -> int:
    return sum(a != b for a, b in pairwise(users))


def test_requests_of_a_user_stand_together_only_in_the_form_that_says_so(made: Path) -> None:
    first, second = _users_of_epochs(made, forms(LEVELS)["whole users"])
    assert _changes_of_user(first) == len(set(first)) - 1 and sorted(first) == sorted(second)
    assert list(dict.fromkeys(first)) != list(dict.fromkeys(second)), "users come in a new order in every epoch"
    for name, form in forms(LEVELS).items():
        if name != "whole users":
            assert _changes_of_user(users := _users_of_epochs(made, form)[0]) > len(users) / 2


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 4), st.booleans())
def test_requests_are_joined_within_a_user(runs: list[int], candidates: int, keep_rest: bool) -> None:
    """`runs`: rows of each user; a row's item and history are its number."""
    user = np.repeat(np.arange(len(runs)), runs)
    row = [[number] for number in range(len(user))]
    table = pa.table({"user": user, "history.item": row, "candidate.item": row})
    joined = in_requests(table, candidates, keep_rest=keep_rest).to_pylist()
    kept = []
    for start, count in zip(np.cumsum([0, *runs]), runs):
        kept += [range(start + at, start + min(at + candidates, count)) for at in range(0, count, candidates)]
    kept = [list(block) for block in kept if keep_rest or len(block) == candidates]
    assert [request["candidate.item"] for request in joined] == kept
    assert [request["history.item"] for request in joined] == [block[:1] for block in kept]
    assert [request["user"] for request in joined] == [user[block[0]] for block in kept]


def test_too_few_labels_for_a_batch(tmp_path: Path) -> None:
    config = SynthConfig(requests=20, candidates=2, users=4, mean_length=8, max_length=20, items=50)
    with pytest.raises(ValueError, match="at least one batch of 64 labels in train, got 16 requests"):
        make_synthetic(tmp_path / "data", config, (1, 2), LABELS)
