"""Parts are whole or not there, and only those with the bytes of their record count."""

import errno
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch.distributed as dist

from dist_rec.config import Config
from dist_rec.data.errors import DataError
from dist_rec.predict import folder as of_folder
from dist_rec.predict.columns import More
from dist_rec.predict.folder import LOCK, PROGRESS, PartWriter, check_out, complete, finished, locked, part_name
from dist_rec.predict.job import MANIFEST, Job, Prediction, options_of
from dist_rec.predict.parts import Parts
from dist_rec.training.failure import exit_code, sentence
from dist_rec.training.ranks import Ranks
from tests.data.requests import make_schema
from tests.helpers.ranks import run_ranks

DATA = Path("requests")


@pytest.fixture
def job(config: Config, last: Path) -> Job:
    return Job.of(config, last, {}, options_of(More(), Parts(9, 3, 3), make_schema()), "cpu")


@pytest.fixture
def out(tmp_path: Path, job: Job) -> Iterator[Path]:
    folder = tmp_path / "out"
    with locked(folder):
        Prediction.of(job).write(folder)
        yield folder


def _table(first: int, probabilities: list[list[float]]) -> pa.Table:
    column = pa.array(probabilities, pa.list_(pa.float32()))
    return pa.table({"request.row": list(range(first, first + len(probabilities))), "probability.click": column})


def _write(out: Path, job: Job, parts: int = 3) -> PartWriter:
    writer = PartWriter(out, job, ["click"])
    for number in range(parts):
        writer.add(number, 3 * number, _table(3 * number, [[0.5, 0.25], []]), is_last=False)
        writer.add(number, 3 * number, _table(3 * number + 2, [[float("nan")]]), is_last=True)
    return writer


def test_parts_are_files_of_whole_tables_with_their_counts(out: Path, job: Job) -> None:
    done = _write(out, job).done
    assert [(p.name, p.first, p.requests, p.candidates, p.nonfinite) for p in done.values()] == [
        (part_name(number), 3 * number, 3, 3, 1) for number in range(3)
    ]
    found = pq.read_table(out / part_name(1))
    assert found.column("request.row").to_pylist() == [3, 4, 5]
    assert found.column("probability.click").to_pylist()[:2] == [[0.5, 0.25], []]


def test_a_large_part_is_written_in_pieces(out: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_folder, "BYTES_AT_ONCE", 1)
    _write(out, job)
    assert pq.ParquetFile(out / part_name(0)).num_row_groups == 2
    assert pq.read_table(out / part_name(0)).num_rows == 3


def test_parts_that_are_whole_are_found_again(out: Path, job: Job, alone: Ranks) -> None:
    done = _write(out, job).done
    assert finished(out, job, 3, alone.host_group) == done
    assert list(finished(out, job, 2, alone.host_group)) == [0, 1]
    complete(out, job, done.values())
    assert finished(out, job, 3, alone.host_group) == done, "by the manifest"


@pytest.mark.parametrize("harm", ["gone", "cut", "changed", "half a record", "no record", "of another job"])
def test_a_part_that_is_not_whole_does_not_count(out: Path, job: Job, alone: Ranks, harm: str) -> None:
    _write(out, job)
    path, record = out / part_name(1), out / PROGRESS / f"{part_name(1)}.json"
    whole = path.read_bytes()
    if harm == "gone":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(whole[:-1])
    elif harm == "changed":
        path.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    elif harm == "half a record":
        record.write_bytes(record.read_bytes()[:50])
    elif harm == "no record":
        record.unlink()
    else:
        record.write_text(record.read_text().replace(job.sha256, "0" * 64))
    assert list(finished(out, job, 3, alone.host_group)) == [0, 2]


def test_what_did_not_end_leaves_nothing(out: Path, job: Job) -> None:
    writer = _write(out, job, parts=1)
    writer.add(1, 3, _table(3, [[0.5]]), is_last=False)
    writer._flush()
    assert (out / f".{part_name(1)}.partial").exists()
    writer.close()
    assert sorted(path.name for path in out.iterdir()) == [PROGRESS, part_name(0), MANIFEST]


def test_a_full_disk_is_said_and_the_part_is_not_there(out: Path, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(of_folder, "to_disk", full)
    with pytest.raises(OSError, match="the prediction cannot be written: No space left on device") as caught:
        _write(out, job)
    assert caught.value.filename == str(out)
    assert (exit_code(caught.value), sentence(caught.value)) == (
        1,
        f"{out}: the prediction cannot be written: No space left on device; expected free space there, or another "
        "folder (run.out, --out)",
    )
    assert not (out / part_name(0)).exists()


def test_the_end_removes_what_was_there_to_go_on(out: Path, job: Job) -> None:
    done = _write(out, job).done
    (out / ".part-00007.parquet.partial").write_text("of a killed process")
    whole = complete(out, job, done.values())
    assert whole.is_complete and Prediction.read(out) == whole
    there = sorted(path.name for path in out.iterdir())
    assert there == [PROGRESS, *(part_name(number) for number in range(3)), MANIFEST]
    assert [path.name for path in (out / PROGRESS).iterdir()] == [LOCK], "which is open, and goes when it is closed"


def _lock(out: Path) -> str:
    try:
        with locked(out):
            return ""
    except DataError as error:
        return str(error)


def test_two_jobs_do_not_write_one_folder(out: Path, tmp_path: Path) -> None:
    (said,) = run_ranks(_lock, 1, out)
    assert said == f"{out}: another process writes a prediction there now; wait for it, or end it"
    assert run_ranks(_lock, 1, tmp_path / "free") == [""]


def _lock_together(out: Path) -> str:
    try:
        with locked(out, dist.group.WORLD):
            return ""
    except DataError as error:
        return str(error)


def test_every_rank_says_that_a_folder_is_taken(out: Path, tmp_path: Path) -> None:
    said = run_ranks(_lock_together, 2, out)
    assert said == [f"{out}: another process writes a prediction there now; wait for it, or end it"] * 2
    assert run_ranks(_lock_together, 2, tmp_path / "free") == ["", ""]


def test_a_lock_is_removed_when_it_is_closed_and_records_stay(tmp_path: Path) -> None:
    with locked(tmp_path):
        pass
    assert not (tmp_path / PROGRESS).exists()
    with locked(tmp_path):
        (tmp_path / PROGRESS / "part-00000.parquet.json").touch()
    assert [path.name for path in (tmp_path / PROGRESS).iterdir()] == ["part-00000.parquet.json"]


def test_a_reader_process_that_outlives_its_rank_holds_no_lock(tmp_path: Path) -> None:
    with locked(tmp_path):
        reader = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        reader.start()
    try:
        assert run_ranks(_lock, 1, tmp_path) == [""]
    finally:
        reader.kill()
        reader.join()


def test_only_a_new_folder_or_one_that_was_begun_is_taken(tmp_path: Path, job: Job) -> None:
    assert check_out(tmp_path / "new", DATA) is None and check_out(tmp_path, DATA) is None
    (tmp_path / PROGRESS).mkdir()
    assert check_out(tmp_path, DATA) is None, "killed before it had begun"
    Prediction.of(job).write(tmp_path)
    assert check_out(tmp_path, DATA) == Prediction.of(job)
    shutil.rmtree(tmp_path / PROGRESS)
    (tmp_path / MANIFEST).rename(tmp_path / "notes.txt")
    with pytest.raises(DataError, match=r"got one with notes\.txt; name another folder"):
        check_out(tmp_path, DATA)
    with pytest.raises(DataError, match="got a file"):
        check_out(tmp_path / "notes.txt", DATA)


def test_a_prediction_never_becomes_a_part_of_the_requests(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "data")
    for out in (tmp_path / "data", tmp_path / "data" / "new", tmp_path / "link" / "deep" / "new"):
        with pytest.raises(DataError, match="expected a place outside of the requests"):
            check_out(out, tmp_path / "data")
    assert check_out(tmp_path / "data-out", tmp_path / "data") is None
