"""What a job says of shared memory before it starts, and whether the bytes it counts on are enough."""

import math

import numpy as np
import pytest

from dist_rec.data import shared_memory
from dist_rec.data.collate import collate
from dist_rec.data.files import warn_once
from dist_rec.data.schema import Schema
from dist_rec.data.shared_memory import event_bytes, warn_of_little_room
from dist_rec.data.transfer_buffer import shared_memory_room
from tests.data.kind_rows import kinds_schema
from tests.data.ngram.schemas import ngram_schema
from tests.data.requests import make_row, make_schema, make_table, seen_schema


@pytest.mark.parametrize(("room", "said"), [(23.9e6, True), (24e6, False), (math.inf, False), (0.0, True)])
def test_batches_ahead_need_room(
    room: float, said: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shared_memory, "shared_memory_room", lambda: room)
    warn_once.cache_clear()
    for _ in range(2):
        warn_of_little_room(1e6, workers=3, ranks_here=4)
    assert len(caplog.messages) == said
    if said:
        (text,) = caplog.messages
        assert f"room for {room / 1e6:.0f} MB of batches" in text
        assert "3 reader processes x 4 ranks on this host x 2 batches ahead take up to 24 MB" in text
        assert "--shm-size=31m" in text and "lower data.workers" in text, "three quarters of 31 MiB are 24.4 MB"


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (make_schema(), 1 + 1 + 1 + 2 + 4 + 4),
        (seen_schema(), 1 + 1 + 4),
        (kinds_schema(), 1 + 1 + 1 + 1 + 4 + 4 + 2 * 4 + (4 + 4 + 2 * 6 + 4 + 4)),
        (ngram_schema(("kind",), rows=[400, 500]), 1 + 1 + 1 + 2 + 4 + 4 + 2 * (2 + 4)),
    ],
)
def test_bytes_of_an_event_by_hand(schema: Schema, expected: int) -> None:
    assert event_bytes(schema) == expected


@pytest.mark.parametrize("schema", [make_schema(), ngram_schema(("kind",))])
def test_no_event_takes_more(schema: Schema) -> None:
    rng = np.random.default_rng(0)
    table = make_table([make_row(rng, user, longest=400) for user in range(30)])
    sent = collate(table, schema, dedup=False)
    of_events = [name for name in sent.tensors if "history" in name or "searches" in name]
    nbytes = sum(sent.tensors[name].nbytes for name in of_events)
    events = sent.num_events + sent.num_candidates  # candidates are tokens of the history's feature set
    assert nbytes <= events * event_bytes(schema) + 16 * len(of_events)


def test_this_machine_has_some() -> None:
    assert shared_memory_room() > 0
