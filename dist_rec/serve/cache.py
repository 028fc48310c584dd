"""States of users in memory, the least recently used ones dropped first, and what a second tier must do."""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from dist_rec.serve.state_bytes import Kept


class StateStore(Protocol):
    """A second tier: bytes by user, one entry for each. All methods raise OSError where the store cannot be reached."""

    def get(self, users: Sequence[str]) -> "list[bytes | None]":
        """None where nothing readable is there."""
        ...

    def put(self, entries: Sequence[tuple[str, bytes]]) -> None:
        """In the place of what was there."""
        ...

    def delete(self, users: Sequence[str]) -> None: ...

    def counts(self) -> "TierCounts": ...

    def close(self) -> None: ...


@dataclass
class TierCounts:
    """Since the start, and what is there now; `entries` and `bytes` are None where a tier does not know them."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0
    errors: int = 0
    entries: int | None = 0
    bytes: int | None = 0


class StateCache:
    """At most `max_bytes` of states (`UserState.nbytes`) by user. Safe to use from many threads.

    A user has one entry, of whatever version of the model, so that events of a user cannot be there twice in different
    lengths: who asks for a version compares it (`UserStates`)."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._lock = threading.Lock()
        self._counts = TierCounts()

    def get(self, users: Sequence[str]) -> list[Kept | None]:
        with self._lock:
            return [self._get(user) for user in users]

    def put(self, kept: Iterable[Kept]) -> set[str]:
        """Returns the users who had to go. What is larger than the limit is not kept, and takes away what there was of
        its user alone."""
        gone: set[str] = set()
        with self._lock:
            for each in kept:
                self._drop(each.user)
                if each.state.nbytes > self.max_bytes:
                    gone.add(each.user)
                    continue
                gone.discard(each.user)
                self._kept[each.user] = each
                self._counts.bytes = self._bytes + each.state.nbytes
            while self._bytes > self.max_bytes:
                gone.add(oldest := next(iter(self._kept)))
                self._drop(oldest)
            self._counts.evictions += len(gone)
        return gone

    def delete(self, users: Iterable[str]) -> None:
        with self._lock:
            for user in users:
                self._drop(user)

    def counts(self) -> TierCounts:
        with self._lock:
            now = self._counts
            return TierCounts(now.hits, now.misses, now.evictions, 0, len(self._kept), now.bytes)

    @property
    def _bytes(self) -> int:
        return self._counts.bytes or 0

    def _get(self, user: str) -> Kept | None:
        found = self._kept.get(user)
        if found is None:
            self._counts.misses += 1
            return None
        self._counts.hits += 1
        self._kept.move_to_end(user)
        return found

    def _drop(self, user: str) -> None:
        found = self._kept.pop(user, None)
        if found is not None:
            self._counts.bytes = self._bytes - found.state.nbytes
