"""States on disk: there after a restart and a kill, never wrong, and within their limit."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.serve.disk_store import PARTIAL, SUFFIX, DiskStore

ROOT = Path(__file__).resolve().parents[2]
WRITER = """
import sys
from dist_rec.serve.disk_store import DiskStore
store = DiskStore(sys.argv[1], 10**9)
number = 0
while True:
    store.put([(str(number % 50), bytes([number % 251]) * 20_000)])
    number += 1
    print(number, flush=True)
"""


def test_what_was_put_is_there_after_a_restart(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, 10_000)
    store.put([("a", b"1" * 100), ("b", b"2" * 100)])
    store.put([("a", b"3" * 50)])
    assert store.get(["a", "b", "c"]) == [b"3" * 50, b"2" * 100, None]
    counts = store.counts()
    assert (counts.hits, counts.misses, counts.entries, counts.bytes) == (2, 1, 2, 150)
    store.close()
    again = DiskStore(tmp_path, 10_000)
    assert again.get(["a", "b"]) == [b"3" * 50, b"2" * 100] and again.counts().bytes == 150
    again.delete(["a", "nobody"])
    assert again.get(["a"]) == [None] and again.counts().entries == 1
    again.close()
    assert DiskStore(tmp_path, 10_000).get(["a", "b"]) == [None, b"2" * 100]


def test_the_least_recently_used_is_deleted(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, 300)
    for user in "abc":
        store.put([(user, user.encode() * 100)])
    store.get(["a"])
    store.put([("d", b"d" * 100)])
    assert [data is not None for data in store.get(["a", "b", "c", "d"])] == [True, False, True, True]
    assert store.counts().evictions == 1 and len(list(tmp_path.rglob(f"*{SUFFIX}"))) == 3
    store.close()
    smaller = DiskStore(tmp_path, 150)
    assert smaller.counts().bytes == 100 and len(list(tmp_path.rglob(f"*{SUFFIX}"))) == 1


def test_one_that_is_too_large_takes_no_other_user_away(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, 300)
    store.put([("a", b"a" * 100), ("b", b"b" * 100)])
    store.put([("a", b"a" * 301)])
    assert store.get(["a", "b"]) == [None, b"b" * 100] and store.counts().evictions == 1


def test_a_full_disk_keeps_no_halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DiskStore(tmp_path, 300)
    store.put([("a", b"1" * 100)])
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        write(path, data[:50])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        for user in "abc":
            with pytest.raises(OSError, match="No space"):
                store.put([(user, b"2" * 100)])
    assert not list(tmp_path.rglob(f"*{PARTIAL}"))
    assert store.get(["a", "b"]) == [b"1" * 100, None] and store.counts().bytes == 100


def test_one_process_at_a_time(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, 300)
    with pytest.raises(ConfigError, match="expected a folder that no other server uses"):
        DiskStore(tmp_path, 300)
    store.close()
    DiskStore(tmp_path, 300).close()


def test_files_that_are_gone_or_empty_are_misses_and_others_stay(tmp_path: Path) -> None:
    store = DiskStore(tmp_path, 10_000)
    store.put([("a", b"1"), ("b", b"2")])
    files = sorted(tmp_path.rglob(f"*{SUFFIX}"))
    files[0].unlink()
    files[1].write_bytes(b"")
    assert store.get(["a", "b"]) == [None, None]
    store.close()
    mine = tmp_path / "notes.txt"
    mine.write_text("mine")
    (files[0].parent / f"x{PARTIAL}").write_bytes(b"half")
    DiskStore(tmp_path, 1).close()
    assert mine.read_text() == "mine" and not list(tmp_path.rglob(f"*{PARTIAL}"))


def test_a_kill_while_writing_leaves_whole_entries(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    for _ in range(3):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) > 120:
                break
        time.sleep(0.01)
        process.kill()
        process.wait()
        process.stdout.close()
        store = DiskStore(tmp_path, 10**9)
        found = store.get([str(user) for user in range(50)])
        assert all(data is not None and len(data) == 20_000 and len(set(data)) == 1 for data in found)
        store.close()
