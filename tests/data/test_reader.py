import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from dist_rec.common.strict import ConfigError, Strict
from dist_rec.data import row_reader
from dist_rec.data.files import RowGroup
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.reader import RequestReader, make_loader
from dist_rec.data.row_reader import ParquetReader
from dist_rec.data.schema import Schema
from dist_rec.data.transfer_buffer import TransferBuffer
from dist_rec.data.validate import DataError
from tests.data.requests import make_dataset, make_rows, make_schema, make_table, seen_schema

ROWS = 75
EVENTS = 60  # of a batch, about nine requests


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """75 rows in two files of 5 row groups each (the last has 3 rows)."""
    return make_dataset(tmp_path_factory.mktemp("data") / "small", ROWS)


def _reader(dataset: Path, **settings) -> RequestReader:
    settings = {"batch_size": 4, "shuffle_window": 20, "seed": 3} | settings
    return RequestReader(folders=[dataset / "train"], schema=make_schema(), **settings)


def _by_events(dataset: Path, **settings) -> RequestReader:
    return _reader(dataset, **{"batch_size": None, "batch_events": EVENTS} | settings)


def _users(batches: list[HostBatch]) -> list[list[int]]:
    return [batch.tensors["grouping_key"].tolist() for batch in batches]


def _flat(batches: list[HostBatch]) -> list[int]:
    return [user for users in _users(batches) for user in users]


def _same(one: HostBatch, other: HostBatch) -> bool:
    left, right = one.tensors, other.tensors
    assert isinstance(left, TransferBuffer) and isinstance(right, TransferBuffer)
    return torch.equal(left.buffer, right.buffer) and left.slots == right.slots


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("window", [0, 20])
def test_every_row_once_per_epoch_and_equal_steps(dataset: Path, world_size: int, workers: int, window: int) -> None:
    rows: Counter[tuple[int, int]] = Counter()
    for rank in range(world_size):
        reader = _reader(dataset, rank=rank, world_size=world_size, epochs=3, shuffle_window=window)
        steps = reader.steps_per_epoch(workers)
        batches = _users(list(make_loader(reader, workers)))
        assert len(batches) == 3 * steps
        rows.update((step // steps, user) for step, users in enumerate(batches) for user in users)
    assert rows == Counter((epoch, user) for epoch in range(3) for user in range(ROWS))


@pytest.mark.parametrize(
    ("world_size", "workers", "steps"), [(1, 1, 19), (2, 1, 10), (2, 2, 10), (3, 2, 8), (10, 1, 2), (20, 1, 2)]
)
def test_steps_are_few(dataset: Path, world_size: int, workers: int, steps: int) -> None:
    """19 batches hold all rows; ranks add to that only what whole row groups cost."""
    assert _reader(dataset, world_size=world_size).steps_per_epoch(workers) == steps


def test_ranks_without_rows_yield_empty_batches(dataset: Path) -> None:
    batches = list(_reader(dataset, rank=15, world_size=20))
    assert [batch.num_requests for batch in batches] == [0, 0]
    unique = batches[0].to(torch.device("cpu")).unique
    assert unique.stride() == 1
    assert unique.keys() == list(make_schema().layout.tables)


def test_file_order_without_shuffling(dataset: Path) -> None:
    assert _flat(list(_reader(dataset, shuffle_window=0, epochs=2))) == [*range(ROWS)] * 2


def test_same_seed_same_order_other_seed_other_order(dataset: Path) -> None:
    first, again, other = (_users(list(_reader(dataset, seed=seed))) for seed in (3, 3, 4))
    assert first == again != other


def test_epochs_differ(dataset: Path) -> None:
    reader = _reader(dataset, epochs=2)
    users = _users(list(reader))
    half = reader.steps_per_epoch(0)
    assert users[:half] != users[half:]


def test_a_loader_can_be_iterated_again(dataset: Path) -> None:
    loader = make_loader(_reader(dataset), 0)
    assert _users(list(loader)) == _users(list(loader))


@pytest.mark.parametrize(("workers", "window"), [(0, 20), (0, 0), (1, 20), (2, 10)])
def test_resumes_at_every_batch(dataset: Path, workers: int, window: int) -> None:
    def loader():
        return make_loader(_reader(dataset, world_size=2, rank=1, epochs=2, shuffle_window=window), workers)

    whole = loader()
    batches, states = [], []
    for batch in whole:
        batches.append(batch)
        states.append(whole.state_dict())
    stride = 1 if workers == 0 else 4  # starting worker processes takes its time
    for done in range(1, len(batches), stride):
        resumed = loader()
        resumed.load_state_dict(states[done - 1])
        rest = list(resumed)
        assert len(rest) == len(batches) - done
        assert all(_same(one, other) for one, other in zip(rest, batches[done:]))


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("window", [0, 20])
def test_batches_by_events_hold_every_row_once(dataset: Path, world_size: int, workers: int, window: int) -> None:
    rows: Counter[tuple[int, int]] = Counter()
    for rank in range(world_size):
        reader = _by_events(dataset, rank=rank, world_size=world_size, epochs=3, shuffle_window=window)
        steps = reader.steps_per_epoch(workers)
        batches = _users(list(make_loader(reader, workers)))
        assert len(batches) == 3 * steps
        rows.update((step // steps, user) for step, users in enumerate(batches) for user in users)
    assert rows == Counter((epoch, user) for epoch in range(3) for user in range(ROWS))


def test_ranks_have_alike_events_in_every_step(dataset: Path) -> None:
    longest = 2 * 6  # of the two sequences of a request
    by_rank = [[batch.num_events for batch in _by_events(dataset, rank=rank, world_size=2)] for rank in range(2)]
    assert len(by_rank[0]) == len(by_rank[1]) >= 5
    assert all(of <= EVENTS + longest for events in by_rank for of in events)
    # An empty sequence counts as one event, and each end of a batch is off by half a request.
    assert max(abs(first - second) for first, second in zip(*by_rank)) <= longest + 8


@pytest.mark.parametrize(("workers", "window"), [(0, 20), (0, 0), (2, 10)])
def test_batches_by_events_resume_at_every_batch(dataset: Path, workers: int, window: int) -> None:
    def loader():
        reader = _by_events(dataset, world_size=2, rank=1, epochs=2, shuffle_window=window, max_length=3)
        return make_loader(reader, workers)

    whole = loader()
    batches, states = [], []
    for batch in whole:
        batches.append(batch)
        states.append(whole.state_dict())
    for done in range(1, len(batches), 1 if workers == 0 else 4):
        resumed = loader()
        resumed.load_state_dict(states[done - 1])
        assert all(_same(one, other) for one, other in zip(resumed, batches[done:], strict=True))


def test_the_events_of_a_batch_on_average(dataset: Path) -> None:
    assert _by_events(dataset).events_per_batch == EVENTS
    by_size = _reader(dataset)
    assert by_size.events_per_batch == 4 * sum(group.events or 0 for group in by_size.row_groups) / ROWS
    assert (_reader(dataset, batch_size=1000).events_per_batch or 0) < 1000
    by_size.row_groups[0] = replace(by_size.row_groups[0], events=None)
    assert by_size.events_per_batch is None


def test_events_that_will_be_cut_are_not_counted(dataset: Path) -> None:
    whole, cut = (_by_events(dataset, max_length=length) for length in (None, 1))
    assert all((group.events or 0) > 2 * group.rows for group in whole.row_groups)
    assert [group.events for group in cut.row_groups] == [2 * group.rows for group in cut.row_groups]


def test_a_state_from_before_batches_by_events_is_one_without(dataset: Path) -> None:
    state = _reader(dataset).state_dict()
    del state["settings"]["batch_events"]
    _reader(dataset).load_state_dict(state)
    with pytest.raises(ConfigError, match="saved with batch_size=4, now it is None"):
        _by_events(dataset).load_state_dict(state)


@pytest.mark.parametrize(("given", "got"), [({}, "neither"), ({"batch_size": 4, "batch_events": 9}, "4 and 9")])
def test_batches_are_cut_by_one_of_the_two(dataset: Path, given: dict[str, int], got: str) -> None:
    with pytest.raises(ConfigError, match=f"either data.batch_size or data.batch_events, got {got}"):
        RequestReader(folders=[dataset / "train"], schema=make_schema(), **given)


def test_a_reader_that_does_not_know_its_events_cannot_balance_them(dataset: Path) -> None:
    class Unknowing(ParquetReader):
        def row_groups(self, folder: Path, schema: Schema) -> list[RowGroup]:
            return [replace(group, events=None) for group in super().row_groups(folder, schema)]

    assert _flat(list(_reader(dataset, rows=Unknowing(Strict()))))
    with pytest.raises(
        ConfigError, match=r"data\.batch_events=60: .* got none of .*parquet, row group 0; expected Row"
    ):
        _by_events(dataset, rows=Unknowing(Strict()))


@pytest.mark.parametrize("window", [0, 20])
def test_wrong_guesses_of_events_lose_no_row(dataset: Path, window: int) -> None:
    class Guessing(ParquetReader):
        def row_groups(self, folder: Path, schema: Schema) -> list[RowGroup]:
            guesses = itertools.cycle([0, 1000, 0, 0, 7])
            return [replace(group, events=next(guesses)) for group in super().row_groups(folder, schema)]

    users = _users(list(make_loader(_by_events(dataset, rows=Guessing(Strict()), shuffle_window=window), 0)))
    assert sorted(user for batch in users for user in batch) == list(range(ROWS))


def test_resuming_reads_only_what_is_left(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = _reader(dataset, shuffle_window=0)
    reader.load_state_dict(reader.state_dict() | {"emitted": 16})
    read: list[int] = []
    plain = row_reader.read_row_group
    monkeypatch.setattr(row_reader, "read_row_group", lambda *a, **k: read.append(k["row_group"]) or plain(*a, **k))
    assert _flat(list(reader)) == [*range(64, ROWS)]
    assert read == [3, 4]


def test_does_not_resume_under_other_settings(dataset: Path) -> None:
    state = _reader(dataset).state_dict()
    with pytest.raises(ConfigError, match="saved with batch_size=4, now it is 5"):
        _reader(dataset, batch_size=5).load_state_dict(state)


def test_holds_one_window_at_a_time(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    plain = ParquetReader.read
    monkeypatch.setattr(ParquetReader, "read", lambda *a: sizes.append((t := plain(*a)).num_rows) or t)
    assert sorted(_flat(list(_reader(dataset, shuffle_window=10)))) == [*range(ROWS)]
    assert sum(sizes) == ROWS and max(sizes) < 10 + 8


def test_newest_events_only(dataset: Path) -> None:
    short = list(_reader(dataset, max_length=2))
    assert max(int(batch.tensors["lengths.history"].max()) for batch in short) == 2


def test_max_length_would_blind_early_candidates(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"data.max_length=5: expected none for this dataset \(candidate.visible_events is true\)"
    ):
        RequestReader(folders=[tmp_path], schema=seen_schema(), batch_size=1, max_length=5)


def test_several_folders(dataset: Path) -> None:
    reader = RequestReader(folders=[dataset / "train"] * 2, schema=make_schema(), batch_size=16)
    assert reader.num_rows == 2 * ROWS
    assert _flat(list(reader)) == [*range(ROWS)] * 2


@pytest.mark.parametrize(
    ("name", "message"),
    [("valid", "nothing there"), ("schema.yaml", "a file")],
)
def test_missing_split(dataset: Path, name: str, message: str) -> None:
    with pytest.raises(DataError, match=f"{dataset / name}: expected a folder .*{message}"):
        RequestReader(folders=[dataset / name], schema=make_schema(), batch_size=4)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_reaches_the_user(tmp_path: Path, workers: int) -> None:
    (tmp_path / "train").mkdir()
    rows = make_rows(30)
    rows[17]["history.item"] = [50] * len(rows[17]["history.item"])
    assert rows[17]["history.item"]
    pq.write_table(make_table(rows), tmp_path / "train" / "bad.parquet", row_group_size=10)
    loader = make_loader(_reader(tmp_path), workers)
    message = r"bad\.parquet, row group 1, row 7, field history\.item: expected an id from 0 to 49, got 50 at entry 0"
    with pytest.raises(DataError, match=message):
        list(loader)


def test_a_loader_leaves_the_random_state_alone(dataset: Path) -> None:
    before = torch.get_rng_state()
    next(iter(make_loader(_reader(dataset), 0)))
    assert torch.equal(before, torch.get_rng_state())


def test_without_dedup_every_event_is_a_token(dataset: Path) -> None:
    with_dedup, without = (next(iter(_reader(dataset, dedup=dedup))) for dedup in (True, False))
    opened = without.to(torch.device("cpu"))
    tokens = opened.unique.to_dict()["history.item"].values()
    assert len(tokens) == len(opened.sequences["history"].inverse) + without.num_candidates
    assert len(with_dedup.tensors["ids.history.item"]) < len(tokens) and with_dedup.plain_bytes == without.plain_bytes


@pytest.mark.parametrize(
    ("world_size", "workers", "said"), [(1, 2, "several workers"), (2, 1, "50% of the room in the batches"), (1, 1, "")]
)
def test_too_few_row_groups_are_said(
    tmp_path: Path, world_size: int, workers: int, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_dataset(tmp_path, 30, rows_per_group=30)
    for _ in range(2):
        make_loader(_reader(tmp_path, world_size=world_size), workers)
    assert [said in text and "1 row groups" in text and "row_group_size=256" in text for text in caplog.messages] == [
        True
    ] * bool(said)


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_one_row_group_makes_full_batches_with_any_workers(tmp_path: Path, workers: int) -> None:
    make_dataset(tmp_path, 30, rows_per_group=30)
    batches = _users(list(make_loader(_reader(tmp_path, batch_size=8, epochs=2), workers)))
    assert [len(users) for users in batches] == [8, 8, 8, 6] * 2
    for epoch in (batches[:4], batches[4:]):
        assert sorted(user for users in epoch for user in users) == [*range(30)]


@pytest.mark.parametrize("workers", [0, 2])
def test_resumes_where_workers_share_row_groups(tmp_path: Path, workers: int) -> None:
    make_dataset(tmp_path, 45, rows_per_group=30)

    def loader():
        return make_loader(_reader(tmp_path, epochs=3), workers)

    whole = loader()
    batches, states = [], []
    for batch in whole:
        batches.append(batch)
        states.append(whole.state_dict())
    for done in range(1, len(batches), 5):
        resumed = loader()
        resumed.load_state_dict(states[done - 1])
        assert all(_same(one, other) for one, other in zip(resumed, batches[done:], strict=True))


def test_a_plan_is_made_once(dataset: Path) -> None:
    reader = _reader(dataset)
    assert reader.plan(0) is reader.plan(1) is not reader.plan(2)


@pytest.mark.parametrize("by", [_reader, _by_events])
@pytest.mark.parametrize("workers", [0, 2])
def test_row_groups_that_cannot_be_read_are_left_out_and_counted(
    tmp_path: Path, by: Callable[..., RequestReader], workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    data = make_dataset(tmp_path / "torn", ROWS)
    path = sorted((data / "train").glob("*.parquet"))[0]
    groups = pq.ParquetFile(path).metadata
    start = groups.row_group(2).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 40] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(DataError, match="row group 2: expected readable column data"):
        list(make_loader(by(data, shuffle_window=20), workers))
    batches = list(make_loader(by(data, shuffle_window=20, skip_unreadable=True), workers))
    users = _flat(batches)
    lost = sum(batch.lost for batch in batches)
    assert lost >= 8 and len(users) == ROWS - 8 and len(set(users)) == len(users)
    if not workers:
        assert "left out, since data.unreadable is skip: 8 requests" in caplog.text and "row group 2" in caplog.text
