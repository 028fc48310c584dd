"""All tiers of states of users as one: memory first, then a store."""

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from dist_rec.serve.cache import StateCache, StateStore, TierCounts
from dist_rec.serve.state_bytes import DamagedState, Kept, from_bytes, to_bytes
from dist_rec.serve.user_state import UserState

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Known:
    """What is known of a user.

    - `state` of the version that was asked for, or None
    - `events` that the model reads of the user, a row; None: not known
    - `came`: how many events of each sequence have come
    """

    state: UserState | None = None
    events: pa.Table | None = None
    came: Mapping[str, int] = field(default_factory=dict)


NOTHING_KNOWN = Known()


class UserStates:
    """Memory, and behind it a store that outlives the process.

    States go into the store when the events of a user change, before anybody gets an answer (write-through): then a
    kill loses no event that was acknowledged, and a restart cannot go on from an older history. Writing on eviction
    would save writes and lose both. States that only followed time have the events that the store has already; they are
    written by `close` alone, so that a restart finds them fresh.

    A user has one entry, of the version that wrote it last. Another version never gets its state. It does get the
    events, if its `origin` says that it reads them alike, and makes its own state of them: a swap of models asks
    nobody for a history again, and going back to the model before does not find an older history there.

    A store that cannot be reached costs time, not answers: its users are misses until they are written again."""

    def __init__(self, cache: StateCache, store: StateStore | None = None) -> None:
        self.cache, self.store = cache, store
        self._lock = threading.Lock()
        self._later: set[str] = set()  # users whose newest state is in memory alone
        self._untrusted: set[str] = set()  # users of whom the store has an older history
        self._errors = 0
        self._damaged = 0

    def get(self, users: Sequence[str], version: str, origin: str) -> list[Known]:
        """For a model of this version and origin."""
        found = self.cache.get(users)
        missing = [place for place, kept in enumerate(found) if kept is None and users[place] not in self._untrusted]
        if self.store is not None and missing:
            read = self._read([users[place] for place in missing])
            for place, kept in zip(missing, read, strict=True):
                found[place] = kept
            self._remember([kept for kept in read if kept is not None])
        return [_known(kept, version, origin) for kept in found]

    def put(self, kept: Sequence[Kept]) -> None:
        """After the events of users have changed. The newest of a user is the last."""
        self._remember(kept)
        if self.store is not None and kept:
            self._write({each.user: each for each in kept})

    def refresh(self, kept: Sequence[Kept]) -> None:
        """After time has passed alone."""
        if self.store is not None:
            with self._lock:
                self._later |= {each.user for each in kept}
        self._remember(kept)

    def delete(self, users: Sequence[str]) -> None:
        """Forgets users in all tiers. Raises OSError if the store cannot be reached."""
        self.cache.delete(users)
        with self._lock:
            self._later -= set(users)
            self._untrusted |= set(users)  # until the store has done it
        if self.store is not None:
            self.store.delete(users)
        with self._lock:
            self._untrusted -= set(users)

    def counts(self) -> dict[str, TierCounts]:
        """By tier."""
        found = {"memory": self.cache.counts()}
        if self.store is not None:
            of = found["store"] = self.store.counts()
            of.errors += self._errors + self._damaged
        return found

    def close(self) -> None:
        """Writes what the store has in an older form."""
        if self.store is None:
            return
        with self._lock:
            users, self._later = sorted(self._later), set()
        kept = [each for each in self.cache.get(users) if each is not None]
        for start in range(0, len(kept), 256):
            self._write({each.user: each for each in kept[start : start + 256]})
        self.store.close()

    def _remember(self, kept: Sequence[Kept]) -> None:
        gone = self.cache.put(kept)
        with self._lock:
            self._later -= gone

    def _read(self, users: list[str]) -> list[Kept | None]:
        assert self.store is not None
        try:
            return [self._decoded(user, data) for user, data in zip(users, self.store.get(users), strict=True)]
        except OSError as error:
            self._failed("read", error)
            return [None] * len(users)

    def _decoded(self, user: str, data: bytes | None) -> Kept | None:
        if data is None:
            return None
        try:
            kept = from_bytes(data)
        except DamagedState as error:
            self._damaged += 1
            _logger.warning("a stored state is left out: %s", error)
            return None
        return kept if kept.user == user else None

    def _write(self, kept: dict[str, Kept]) -> None:
        assert self.store is not None
        try:
            self.store.put([(user, to_bytes(each)) for user, each in kept.items()])
        except OSError as error:
            self._failed("written", error)
            with self._lock:
                self._untrusted |= kept.keys()
            self._take_back(kept)
            return
        with self._lock:
            self._later -= kept.keys()
            self._untrusted -= kept.keys()

    def _take_back(self, users: Iterable[str]) -> None:
        """A full disk still deletes: then the store has no older history after a restart."""
        assert self.store is not None
        try:
            self.store.delete(list(users))
        except OSError:
            pass  # said already; the users are not trusted

    def _failed(self, done: str, error: OSError) -> None:
        self._errors += 1
        _logger.warning("states cannot be %s: %s", done, error)


def _known(kept: Kept | None, version: str, origin: str) -> Known:
    if kept is None or kept.origin != origin:
        return NOTHING_KNOWN
    return Known(kept.state if kept.state.version == version else None, kept.state.events, kept.came)
