"""States in memory: what is used stays, what is too much goes, and it is counted."""

import threading

import pyarrow as pa
import torch

from dist_rec.serve.cache import StateCache
from dist_rec.serve.state_bytes import Kept
from dist_rec.serve.user_state import SequenceState, UserState


def kept(user: str, size: int = 1000, version: str = "v1") -> Kept:
    """Of about so many bytes."""
    of = SequenceState(1, torch.zeros(size // 4, 1, dtype=torch.int32), {}, {}, None)
    return Kept(
        user, "o", UserState(version, pa.table({"a": pa.array([[]], pa.list_(pa.int8()))}), 0, 1, {"a": of}), {"a": 1}
    )


def users(cache: StateCache, *names: str) -> list[bool]:
    return [found is not None for found in cache.get(names)]


ONE = kept("x").state.nbytes


def test_the_least_recently_used_goes_first() -> None:
    cache = StateCache(3 * ONE)
    cache.put([kept("a"), kept("b"), kept("c")])
    assert users(cache, "a") == [True]
    cache.put([kept("d")])
    assert users(cache, "a", "b", "c", "d") == [True, False, True, True]
    counts = cache.counts()
    assert (counts.hits, counts.misses, counts.evictions, counts.entries, counts.bytes) == (4, 1, 1, 3, 3 * ONE)


def test_a_user_has_one_entry() -> None:
    cache = StateCache(10 * ONE)
    cache.put([kept("a"), kept("a", 2000, "v2")])
    found = cache.get(["a"])[0]
    assert found is not None and found.state.version == "v2"
    assert cache.counts().entries == 1 and cache.counts().bytes == found.state.nbytes
    cache.delete(["a", "nobody"])
    assert cache.counts().entries == 0 and cache.counts().bytes == 0 and users(cache, "a") == [False]


def test_what_is_larger_than_the_limit_is_not_kept_and_nothing_older_of_the_user() -> None:
    cache = StateCache(2 * ONE)
    cache.put([kept("a")])
    cache.put([kept("a", 5000)])
    assert users(cache, "a") == [False] and cache.counts().bytes == 0
    nothing = StateCache(0)
    nothing.put([kept("a")])
    assert users(nothing, "a") == [False]


def test_many_threads_leave_right_sums() -> None:
    cache = StateCache(20 * ONE)

    def work(number: int) -> None:
        for turn in range(300):
            cache.put([kept(str((number * 7 + turn) % 40), 1000 + 4 * number)])
            cache.get([str(turn % 40)])
            if turn % 5 == 0:
                cache.delete([str(turn % 40)])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [each for each in cache.get([str(user) for user in range(40)]) if each is not None]
    counts = cache.counts()
    assert counts.bytes == sum(each.state.nbytes for each in found) <= 20 * ONE and counts.entries == len(found)


def test_one_that_is_too_large_takes_no_other_user_away() -> None:
    cache = StateCache(3 * ONE)
    cache.put([kept("a"), kept("b")])
    assert cache.put([kept("c", 9000), kept("d")]) == {"c"}
    assert users(cache, "a", "b", "c", "d") == [True, True, False, True] and cache.counts().evictions == 1
    assert cache.put([kept("e")]) == {"a"}
