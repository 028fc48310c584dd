"""States of users in Redis, which several servers may share. Needs the extra `redis`."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from dist_rec.common.strict import ConfigError
from dist_rec.serve.cache import TierCounts

if TYPE_CHECKING:
    from redis import Redis

T = TypeVar("T")
PREFIX = "dist_rec:state:"
TIMEOUT_S = 0.5  # a store that is slower than this costs more than it saves


class RedisStore:
    """Entries `<prefix><user>`, dropped `ttl_s` seconds after they were written (None: never). Redis has limits of
    memory of its own.

    Servers that share it do not tell each other what they have in memory: send all requests of a user to one server."""

    def __init__(self, client: "Redis", *, prefix: str = PREFIX, ttl_s: int | None = None) -> None:
        self._client, self._prefix, self._ttl_s = client, prefix, ttl_s
        self._hits = self._misses = 0

    @classmethod
    def of_url(cls, url: str, *, ttl_s: int | None = None) -> "RedisStore":
        """Such as redis://host:6379/0. Raises ConfigError if the package is missing or the address is none."""
        try:
            import redis
        except ModuleNotFoundError:
            raise ConfigError(
                "--redis needs the package redis; install it with: pip install 'dist-rec[redis]'"
            ) from None
        try:
            client = redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)
        except ValueError as error:
            raise ConfigError(f"redis: expected an address such as redis://host:6379/0, got {url!r}: {error}") from None
        return cls(client, ttl_s=ttl_s)

    def get(self, users: Sequence[str]) -> list[bytes | None]:
        found: Any = self._reached(lambda: self._client.mget([self._prefix + user for user in users]) if users else [])
        hits = sum(data is not None for data in found)
        self._hits, self._misses = self._hits + hits, self._misses + len(found) - hits
        return found

    def put(self, entries: Sequence[tuple[str, bytes]]) -> None:
        def write() -> None:
            with self._client.pipeline(transaction=False) as pipe:
                for user, data in entries:
                    pipe.set(self._prefix + user, data, ex=self._ttl_s)
                pipe.execute()

        self._reached(write)

    def delete(self, users: Sequence[str]) -> None:
        if users:
            self._reached(lambda: self._client.unlink(*[self._prefix + user for user in users]))

    def counts(self) -> TierCounts:
        return TierCounts(self._hits, self._misses, entries=None, bytes=None)

    def close(self) -> None:
        self._client.close()

    def _reached(self, call: Callable[[], T]) -> T:
        """Raises OSError in the place of the client's own errors."""
        from redis import RedisError

        try:
            return call()
        except RedisError as error:
            raise OSError(f"Redis: {error}") from error
