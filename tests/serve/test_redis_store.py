"""States in Redis, tried on an imitation of it."""

import sys

import fakeredis
import pytest
import redis

from dist_rec.common.strict import ConfigError
from dist_rec.serve.redis_store import PREFIX, RedisStore


def test_put_get_delete() -> None:
    client = fakeredis.FakeRedis()
    store = RedisStore(client)
    store.put([("a", b"\0\xff"), ("b", b"2")])
    store.put([("a", b"3")])
    assert store.get(["a", "b", "c"]) == [b"3", b"2", None] and store.get([]) == []
    assert client.ttl(f"{PREFIX}a") == -1
    store.delete(["a", "nobody"])
    store.delete([])
    assert store.get(["a"]) == [None]
    counts = store.counts()
    assert (counts.hits, counts.misses, counts.entries, counts.bytes) == (2, 2, None, None)
    store.close()


def test_entries_end() -> None:
    client = fakeredis.FakeRedis()
    RedisStore(client, prefix="p:", ttl_s=60).put([("a", b"1")])
    assert 0 < client.ttl("p:a") <= 60


def test_a_store_that_cannot_be_reached_is_an_os_error() -> None:
    server = fakeredis.FakeServer()
    store = RedisStore(fakeredis.FakeRedis(server=server))
    server.connected = False
    for call in (lambda: store.get(["a"]), lambda: store.put([("a", b"1")]), lambda: store.delete(["a"])):
        with pytest.raises(OSError, match="Redis: "):
            call()


def test_addresses() -> None:
    assert isinstance(RedisStore.of_url("redis://127.0.0.1:1/0", ttl_s=3), RedisStore)
    with pytest.raises(ConfigError, match="expected an address such as redis://host:6379/0, got 'nowhere'"):
        RedisStore.of_url("nowhere")
    with pytest.raises(OSError, match="Redis: "):
        RedisStore.of_url("redis://127.0.0.1:1/0").get(["a"])
    assert redis.RedisError is not None


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match=r"pip install 'dist-rec\[redis\]'"):
        RedisStore.of_url("redis://127.0.0.1")
