import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dist_rec.data import dedup
from dist_rec.data.dedup import (
    DistinctRows,
    every_token,
    native,
    pack_inverse,
    unique_by_pyarrow,
    unique_tokens,
    unpack_inverse,
)
from dist_rec.kernels.unique_ids import pack_index, unpack_index

IDS = st.integers(min_value=-(2**63), max_value=2**63 - 1) | st.integers(min_value=0, max_value=3) | st.just(2**62)
CASES = st.integers(1, 4).flatmap(
    lambda fields: st.lists(st.tuples(*[IDS] * fields), max_size=80).map(lambda r: (fields, r))
)


def _columns(case: tuple[int, list[tuple[int, ...]]]) -> list[NDArray[np.int64]]:
    fields, rows = case
    return [np.array([row[field] for row in rows], dtype=np.int64) for field in range(fields)]


def _check(tokens: DistinctRows, rows: list[tuple[int, ...]], columns: list[NDArray[np.int64]]) -> None:
    for column, unique in zip(columns, tokens.columns, strict=True):
        assert unique.dtype == np.int64
        np.testing.assert_array_equal(unique[tokens.inverse], column)
    assert list(zip(*(column.tolist() for column in tokens.columns))) == list(dict.fromkeys(rows)), (
        "order of first occurrence"
    )
    assert tokens.inverse.dtype == np.int32


@given(CASES)
def test_rebuilds_every_column(case: tuple[int, list[tuple[int, ...]]]) -> None:
    columns = _columns(case)
    _check(unique_tokens(columns), case[1], columns)
    _check(unique_by_pyarrow(columns), case[1], columns)


WIDTHS = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)


@given(st.lists(st.sampled_from(WIDTHS), min_size=1, max_size=5), st.integers(0, 80), st.integers(0, 99))
def test_columns_of_any_width(widths: list[type], count: int, seed: int) -> None:
    """Fields of 64 bits together and of more: numbered by their bits, or by a hash that is confirmed."""
    rng = np.random.default_rng(seed)
    columns = []
    for width in widths:
        limits = np.iinfo(width)
        ends = rng.integers(max(limits.min, -(2**63)), min(limits.max, 2**63 - 1), 3, dtype=np.int64, endpoint=True)
        columns.append(rng.choice(ends, count).astype(width))
    wide = [column.astype(np.int64) for column in columns]
    _check(unique_tokens(columns), list(zip(*(column.tolist() for column in wide))), wide)


@pytest.mark.parametrize("fields", [1, 3])
@pytest.mark.parametrize(
    ("count", "distinct"),
    [(1, 1), (31, 31), (32, 4), (33, 33), (5_000, 1), (5_000, 5_000), (100_003, 30_011), (100_003, 2)],
)
def test_around_blocks_and_growing_tables(count: int, distinct: int, fields: int) -> None:
    rng = np.random.default_rng(count)
    ids = np.concatenate([np.arange(distinct), rng.integers(0, distinct, count - distinct)])
    columns = [rng.permutation(ids) * step for step in (1, 2**40, 2**33 - 1)[:fields]]
    tokens = unique_tokens(columns)
    again = unique_by_pyarrow(columns)
    for one, other in zip([*tokens.columns, tokens.inverse], [*again.columns, again.inverse], strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_call_does_not_see_the_one_before() -> None:
    """The table stays in memory between calls."""
    many, few = np.arange(50_000), np.array([7, 7, 9])
    for columns in ([many], [few], [many, many], [few, few], [many]):
        assert len(unique_tokens(columns).columns[0]) == len(np.unique(columns[0]))


def test_narrow_and_strided_columns() -> None:
    strided = np.arange(20, dtype=np.int32)[::2]
    tokens = unique_tokens([strided, (strided % 3).astype(np.uint8)])
    np.testing.assert_array_equal(tokens.columns[0][tokens.inverse], strided)


def test_columns_of_different_lengths() -> None:
    with pytest.raises(ValueError, match=r"same length, got \[2, 3\]"):
        unique_tokens([np.zeros(2), np.zeros(3)])


def test_no_columns() -> None:
    with pytest.raises(ValueError, match="at least one column"):
        unique_tokens([])


def test_too_many_tokens_are_refused_before_anything_is_copied() -> None:
    with pytest.raises(ValueError, match="fewer than 2147483647 tokens, got 2147483647"):
        unique_tokens([np.broadcast_to(np.int64(1), 2**31 - 1)])


def test_the_extension_is_built() -> None:
    assert native() is not None, "a C++ compiler is part of the test environment"


def test_the_extension_checks_its_buffers() -> None:
    host = native()
    assert host is not None
    ids, short = np.zeros(4, np.int64), np.zeros(3, np.int64)
    with pytest.raises(ValueError, match="4 elements of 8 bytes, got 24 bytes"):
        host.unique_tokens((ids,), (short,), np.zeros(4, np.int32), 4)
    with pytest.raises(ValueError, match="at least one"):
        host.unique_tokens((), (), np.zeros(4, np.int32), 4)
    for wrong in (np.zeros(4, np.float32), np.zeros(4, np.uint64), np.zeros(4, bool), np.zeros(3, np.int32)):
        with pytest.raises(ValueError, match=r"4 integers up to int64, got \d+ bytes of format"):
            host.unique_tokens((wrong,), (ids,), np.zeros(4, np.int32), 4)
    with pytest.raises(ValueError, match="1 to 32 bits"):
        host.pack_bits(np.zeros(4, np.int32), 4, np.zeros(2, np.int32), 2, 33)
    with pytest.raises(ValueError, match="one more word"):
        host.unpack_bits(np.zeros(2, np.int32), 2, np.zeros(9, np.int32), 9, 5)


@pytest.mark.parametrize("mib", [40, 80, 150])
def test_memory_that_runs_out_is_an_error_and_the_next_call_works(mib: int) -> None:
    """In a process of its own, whose memory is limited for one call: results, tables of several sizes, or growing ends
    it."""
    code = f"""
import resource, numpy as np
from dist_rec.data.dedup import unique_tokens
unique_tokens([np.arange(10)])
ids = np.arange(3_000_000)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {mib} * 2**20, resource.RLIM_INFINITY))
try:
    unique_tokens([ids])
except MemoryError:
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print("out of memory, then", len(unique_tokens([np.arange(10)]).columns[0]))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout == "out of memory, then 10\n", ran.stdout + ran.stderr


def test_without_the_extension_the_result_is_the_same_and_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    columns = [np.array([3, 1, 3, 2]), np.array([0, 5, 0, 5])]
    built, inverse = unique_tokens(columns), torch.tensor([0, 1, 0, 2], dtype=torch.int32)
    packed = pack_inverse(inverse, 3)

    def missing(name: str) -> None:
        raise ImportError(f"no {name}")

    monkeypatch.setattr(dedup, "import_module", missing)
    native.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            plain, _ = (unique_tokens(columns) for _ in range(2))
            assert torch.equal(pack_inverse(inverse, 3).words, packed.words) and torch.equal(
                unpack_inverse(packed), inverse
            )
    finally:
        native.cache_clear()
    for one, other in zip([*built.columns, built.inverse], [*plain.columns, plain.inverse], strict=True):
        np.testing.assert_array_equal(one, other)
    assert caplog.text.count("the C++ extension is not built (no dist_rec.data._host)") == 1


@given(bits=st.integers(1, 31), count=st.integers(0, 200), seed=st.integers(0, 99))
def test_packs_as_the_operator_does(bits: int, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    inverse = torch.randint(0, 2**bits, (count,), generator=generator, dtype=torch.int64).int()
    packed, truth = pack_inverse(inverse, 2**bits), pack_index(inverse, 2**bits)
    assert torch.equal(packed.words, truth.words) and packed.bits == truth.bits == bits
    assert torch.equal(unpack_inverse(packed), inverse) and torch.equal(unpack_index(packed), inverse)


def test_no_dedup_keeps_every_event() -> None:
    columns = [np.array([5, 5, 6]), np.array([1, 1, 1])]
    tokens = every_token(columns)
    assert [column.tolist() for column in tokens.columns] == [[5, 5, 6], [1, 1, 1]] and tokens.inverse.tolist() == [
        0,
        1,
        2,
    ]
