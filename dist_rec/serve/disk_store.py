"""States of users on disk: a file for each user, which outlives the process that wrote it."""

import fcntl
import hashlib
import mmap
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from dist_rec.common.strict import ConfigError
from dist_rec.serve.cache import TierCounts

SUFFIX, PARTIAL, LOCK = ".state", ".partial", "lock"


class DiskStore:
    """At most `max_bytes` in files below `folder`, the least recently used ones deleted first.

    A file is written under another name and renamed, so a kill leaves the old one or the new one. Nothing waits for the
    disk: after a loss of power a file may be torn, which its sum tells (`state_bytes`). Files are mapped to be read,
    and copied: what is in use must not depend on a file. The folder belongs to one process at a time.

    Raises ConfigError if another process uses the folder."""

    def __init__(self, folder: str | Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = Path(folder), max_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._file = _locked(self.folder)
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._counts = TierCounts()
        for name, size in _there(self.folder):
            self._sizes[name] = size
        self._bytes = sum(self._sizes.values())
        self._make_room()

    def get(self, users: Sequence[str]) -> list[bytes | None]:
        with self._lock:
            return [self._get(_name(user)) for user in users]

    def put(self, entries: Sequence[tuple[str, bytes]]) -> None:
        with self._lock:
            for user, data in entries:
                if len(data) <= self.max_bytes:
                    self._put(_name(user), data)
                else:  # alone: it would take the place of all others and then go, too
                    self._drop(_name(user))
                    self._counts.evictions += 1
            self._make_room()

    def delete(self, users: Sequence[str]) -> None:
        with self._lock:
            for user in users:
                self._drop(_name(user))

    def counts(self) -> TierCounts:
        with self._lock:
            now = self._counts
            return TierCounts(now.hits, now.misses, now.evictions, 0, len(self._sizes), self._bytes)

    def close(self) -> None:
        self._file.close()

    def _get(self, name: str) -> bytes | None:
        data = _mapped(self.folder / name) if name in self._sizes else None
        if data is None:
            self._counts.misses += 1
            return None
        self._counts.hits += 1
        self._sizes.move_to_end(name)
        return data

    def _put(self, name: str, data: bytes) -> None:
        path = self.folder / name
        partial = path.with_suffix(PARTIAL)
        path.parent.mkdir(exist_ok=True)
        try:
            partial.write_bytes(data)
            partial.replace(path)
        except OSError:  # a full disk must not fill with halves
            partial.unlink(missing_ok=True)
            raise
        self._bytes += len(data) - self._sizes.pop(name, 0)
        self._sizes[name] = len(data)

    def _make_room(self) -> None:
        while self._bytes > self.max_bytes:
            self._drop(next(iter(self._sizes)))
            self._counts.evictions += 1

    def _drop(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)
        self._bytes -= self._sizes.pop(name, 0)


def _name(user: str) -> str:
    """Of any user, in one of 256 folders."""
    name = hashlib.sha256(user.encode()).hexdigest()[:40]
    return f"{name[:2]}/{name}{SUFFIX}"


def _locked(folder: Path) -> TextIO:
    file = (folder / LOCK).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise ConfigError(f"{folder}: expected a folder that no other server uses, got one in use") from None
    return file


def _there(folder: Path) -> list[tuple[str, int]]:
    """Names and sizes, the least recently written first; what a kill left half-written is deleted."""
    found: list[tuple[int, str, int]] = []
    for shard in sorted(folder.glob("[0-9a-f][0-9a-f]")):
        for entry in os.scandir(shard):
            if entry.name.endswith(PARTIAL):
                os.unlink(entry.path)
            elif entry.name.endswith(SUFFIX) and entry.is_file(follow_symlinks=False):
                stat = entry.stat()
                found.append((stat.st_mtime_ns, f"{shard.name}/{entry.name}", stat.st_size))
    return [(name, size) for _, name, size in sorted(found)]


def _mapped(path: Path) -> bytes | None:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return bytes(mapped)
    except (FileNotFoundError, ValueError):  # deleted by somebody, or empty
        return None
