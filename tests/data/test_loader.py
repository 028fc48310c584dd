"""What goes wrong in a reader process is one sentence, wherever the main process is."""

import errno
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.data.errors import DataError
from dist_rec.data.loader import Failure, ReaderLoader, failures_as_values
from dist_rec.data.reader import RequestReader, make_loader
from tests.data.requests import make_dataset, make_rows, make_schema, make_table


def _reader(folder: Path, **settings) -> RequestReader:
    return RequestReader(folders=[folder / "train"], schema=make_schema(), **({"batch_size": 4} | settings))


def _damage(path: Path) -> None:
    with pq.ParquetFile(path) as file:
        start = file.metadata.row_group(1).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 200] = b"\xff" * 200
    path.write_bytes(bytes(content))


def _spoil(path: Path) -> None:
    rows = make_rows(16)
    rows[11]["user"] = 5000
    pq.write_table(make_table(rows), path, row_group_size=8)


@pytest.mark.parametrize("spoil", [_spoil, _damage, Path.unlink])
def test_errors_are_those_without_workers(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    make_dataset(tmp_path, 16)
    readers = [_reader(tmp_path) for _ in range(3)]
    spoil(tmp_path / "train" / "part-00000.parquet")
    said = []
    for workers, reader in enumerate(readers):
        with pytest.raises(DataError) as caught:
            list(make_loader(reader, workers))
        said.append(str(caught.value))
    assert len(set(said)) == 1 and "\n" not in said[0] and "part-00000.parquet" in said[0]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_state_of_other_settings_is_refused_alike(tmp_path: Path, workers: int) -> None:
    make_dataset(tmp_path, 16)
    loader = make_loader(_reader(tmp_path), workers)
    next(iter(loader))
    other = make_loader(_reader(tmp_path, batch_size=3), workers)
    other.load_state_dict(loader.state_dict())
    with pytest.raises(
        ConfigError, match=r"^cannot resume the data stream: it was saved with batch_size=4, now it is 3$"
    ):
        list(other)


def test_batches_before_the_error_still_come(tmp_path: Path) -> None:
    make_dataset(tmp_path, 16)
    _spoil(tmp_path / "train" / "part-00000.parquet")
    batches = iter(make_loader(_reader(tmp_path), 1))
    assert [next(batches).num_requests for _ in range(2)] == [4, 4]
    with pytest.raises(DataError, match="row group 1, row 3, field user"):
        next(batches)


def test_other_errors_keep_their_traceback() -> None:
    def broken():
        yield 1
        raise KeyError("a mistake of ours")

    assert list(failures_as_values(iter([1, 2]))) == [1, 2]
    with pytest.raises(KeyError):
        list(failures_as_values(broken()))

    def wrong():
        yield 1
        raise DataError("theirs")

    one, failure = failures_as_values(wrong())
    assert one == 1 and isinstance(failure, Failure) and str(failure.error) == "theirs"


@pytest.mark.parametrize(("sent", "how"), [(signal.SIGKILL, "by SIGKILL"), (signal.SIGTERM, "without a word")])
def test_the_death_of_a_worker_is_explained(tmp_path: Path, sent: signal.Signals, how: str) -> None:
    make_dataset(tmp_path, 16)
    loader = make_loader(_reader(tmp_path, epochs=10_000), 2)
    batches = iter(loader)
    next(batches)
    (_, victim) = loader._iterator._workers
    os.kill(victim.pid, sent)
    with pytest.raises(DataError, match=rf"^a reader process died \({how}\): .*data\.workers.*memory.*/dev/shm"):
        list(batches)


def test_a_death_is_explained_while_the_main_process_computes(tmp_path: Path) -> None:
    make_dataset(tmp_path, 16)
    loader = make_loader(_reader(tmp_path, epochs=10_000), 2)
    next(iter(loader))
    with pytest.raises(DataError, match=r"^a reader process died \(by SIGKILL\)"):
        os.kill(loader._iterator._workers[1].pid, signal.SIGKILL)
        for _ in range(2000):
            time.sleep(0.01)


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "No space left on device; expected room in shared memory"),
        (errno.EAGAIN, "Resource temporarily unavailable; expected more"),
    ],
)
def test_a_system_that_starts_no_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], code: int, advice: str
) -> None:
    make_dataset(tmp_path, 16)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("multiprocessing.queues.Queue.__init__", refuse)
    said = (
        rf"^the system cannot start reader processes, 2 for each rank: {advice}.* lower data\.workers, .* \(0: none\)$"
    )
    with pytest.raises(DataError, match=said):
        iter(make_loader(_reader(tmp_path), 2))
    assert "Traceback" not in capfd.readouterr().err


def test_a_limit_of_open_files_is_named(tmp_path: Path) -> None:
    make_dataset(tmp_path, 400)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    loader = make_loader(_reader(tmp_path, batch_size=1, epochs=100), 1)
    batches = iter(loader)
    held = [next(batches)]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
        with pytest.raises(
            DataError, match=r"need more open files than the system allows; raise the limit \(ulimit -n\)"
        ):
            held.extend(batches)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_without_workers_it_is_a_plain_loader(tmp_path: Path) -> None:
    make_dataset(tmp_path, 16)
    loader = make_loader(_reader(tmp_path), 0)
    assert isinstance(loader, ReaderLoader) and len(list(loader)) == 4
