"""Bytes of a shard on its device and in host memory."""

from dist_rec.embedding.shards import MAP_BYTES, SLOT_BYTES, Shard


def _shard(kernel: str, cached: float = 0.5) -> Shard:
    return Shard("item", 0, rows=100, dim=8, sharding="row_wise", kernel=kernel, cached=cached)


def test_a_plain_shard_is_on_its_device() -> None:
    plain = _shard("fused")
    assert plain.nbytes == plain.device_bytes == 4 * 100 * 8 and not plain.in_host_memory


def test_of_a_cached_one_the_device_has_the_cache_and_what_finds_a_row_there() -> None:
    cached = _shard("fused_uvm_caching")
    assert cached.in_host_memory and cached.nbytes == 3200
    assert cached.device_bytes == 50 * (4 * 8 + SLOT_BYTES) + 100 * MAP_BYTES


def test_one_in_host_memory_without_a_cache_takes_nothing() -> None:
    assert _shard("fused_uvm").device_bytes == 0
