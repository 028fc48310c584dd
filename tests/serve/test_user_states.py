"""All tiers as one: nothing acknowledged is lost, nothing of another version or an older history is given."""

from collections.abc import Sequence

from dist_rec.serve.cache import StateCache, TierCounts
from dist_rec.serve.state_bytes import Kept, from_bytes, to_bytes
from dist_rec.serve.user_states import UserStates
from tests.serve.test_cache import ONE, kept


class Store:
    """A dict that fails when it is told to."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.fails: set[str] = set()
        self.writes = 0
        self.closed = False

    def _tried(self, what: str) -> None:
        if what in self.fails:
            raise OSError(f"no {what}")

    def get(self, users: Sequence[str]) -> list[bytes | None]:
        self._tried("get")
        return [self.data.get(user) for user in users]

    def put(self, entries: Sequence[tuple[str, bytes]]) -> None:
        self._tried("put")
        self.writes += len(entries)
        self.data |= dict(entries)

    def delete(self, users: Sequence[str]) -> None:
        self._tried("delete")
        for user in users:
            self.data.pop(user, None)

    def counts(self) -> TierCounts:
        return TierCounts()

    def close(self) -> None:
        self.closed = True


def made(memory: int = 10**6) -> tuple[UserStates, Store]:
    store = Store()
    return UserStates(StateCache(memory), store), store


def version(states: UserStates, user: str, of: str = "v1", origin: str = "o") -> tuple[bool, bool]:
    """Whether there is a state, and events."""
    found = states.get([user], of, origin)[0]
    assert found.state is None or found.state.version == of
    return found.state is not None, found.events is not None


def test_new_events_are_in_the_store_at_once() -> None:
    states, store = made()
    states.put([kept("a"), kept("b"), kept("a", 2000)])
    assert store.data.keys() == {"a", "b"} and store.writes == 2
    assert from_bytes(store.data["a"]).state.nbytes == kept("a", 2000).state.nbytes
    restarted = UserStates(StateCache(10**6), store)
    assert version(restarted, "a") == (True, True)
    store.data.clear()
    assert version(restarted, "a") == (True, True), "it is in memory now"


def test_what_followed_time_alone_is_written_at_the_end() -> None:
    states, store = made()
    states.put([kept("a")])
    states.refresh([kept("a", 3000)])
    assert store.writes == 1
    states.close()
    assert store.writes == 2 and store.closed
    assert from_bytes(store.data["a"]).state.nbytes == kept("a", 3000).state.nbytes


def test_what_is_to_be_written_later_is_in_memory() -> None:
    states, store = made(memory=3 * ONE)
    for user in range(50):
        states.refresh([kept(str(user))])
    assert states._later == {"47", "48", "49"}, "others would be in it for ever"
    states.close()
    assert store.data.keys() == {"47", "48", "49"}


def test_another_version_gets_the_events_alone_and_another_origin_nothing() -> None:
    for states in (made()[0], made(memory=0)[0], UserStates(StateCache(10**6))):
        states.put([kept("a")])
        if states.store is None or states.cache.max_bytes:
            assert version(states, "a", "v1") == (True, True)
        assert version(states, "a", "v2") == (False, True)
        assert version(states, "a", "v1", origin="other") == (False, False)


def test_going_back_to_a_version_does_not_find_its_older_history() -> None:
    states, _ = made()
    states.put([kept("a", version="v1")])
    states.put([kept("a", version="v2")])
    assert version(states, "a", "v1") == (False, True)
    assert version(states, "a", "v2") == (True, True)


def test_a_store_that_fails_costs_no_answer_and_gives_no_older_history() -> None:
    states, store = made(memory=0)
    states.put([kept("a")])
    store.fails = {"put", "delete"}
    states.put([kept("a", 2000)])
    assert version(states, "a") == (False, False), "the store has an older one"
    store.fails = {"get"}
    assert version(states, "b") == (False, False)
    store.fails = set()
    states.put([kept("a", 3000)])
    assert version(states, "a") == (True, True)
    assert states.counts()["store"].errors == 2


def test_a_full_disk_takes_the_older_history_away() -> None:
    states, store = made()
    states.put([kept("a")])
    store.fails = {"put"}
    states.put([kept("a", 2000)])
    assert not store.data and version(states, "a") == (True, True)


def test_damaged_entries_and_those_of_another_user_are_misses() -> None:
    states, store = made()
    store.data = {"a": b"torn", "b": to_bytes(kept("c"))}
    assert version(states, "a") == (False, False) and version(states, "b") == (False, False)
    assert states.counts()["store"].errors == 1


def test_forgotten_everywhere() -> None:
    states, store = made()
    states.put([kept("a")])
    states.refresh([kept("a")])
    states.delete(["a"])
    assert version(states, "a") == (False, False)
    states.close()
    assert not store.data


def test_a_user_who_could_not_be_forgotten_is_not_found() -> None:
    states, store = made()
    states.put([kept("a")])
    store.fails = {"delete"}
    try:
        states.delete(["a"])
    except OSError:
        assert version(states, "a") == (False, False)
    else:
        raise AssertionError("it was not said")


def test_without_a_store() -> None:
    states = UserStates(StateCache(10**6))
    one: Kept = kept("a")
    states.put([one])
    states.refresh([one])
    assert version(states, "a") == (True, True) and states.counts().keys() == {"memory"}
    states.delete(["a"])
    states.close()
