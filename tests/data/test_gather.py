"""Entries of rows in any order: by C++ and by numpy, and ranges that do not exist."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.data import dedup
from dist_rec.data.dedup import native
from dist_rec.data.gather import gather, gather_ages

INTS = (np.int8, np.uint8, np.int16, np.int32, np.int64, np.float32)
RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 10)), max_size=12)


@pytest.fixture(params=["C++", "numpy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param == "numpy":
        monkeypatch.setattr(dedup, "import_module", _missing)
    native.cache_clear()
    yield
    native.cache_clear()


def _missing(name: str) -> None:
    raise ImportError(f"no {name}")


def _arrays(ranges: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    starts, lengths = (np.array([of[place] for of in ranges], np.int64) for place in (0, 1))
    return starts, lengths


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("kind", INTS)
def test_ranges_come_one_after_the_other(kind: type) -> None:
    values = np.arange(50).astype(kind)

    @given(RANGES)
    def check(ranges: list[tuple[int, int]]) -> None:
        got = gather(values, *_arrays(ranges))
        assert got.dtype == kind
        assert got.tolist() == [value for start, length in ranges for value in values[start : start + length].tolist()]

    check()


@pytest.mark.usefixtures("way")
def test_ages_are_clipped() -> None:
    times = np.array([5, 9, 10, -(2**40), 2**62, -(2**62)])
    starts, lengths, now = np.array([1, 0, 3]), np.array([2, 1, 3]), np.array([10, 4, 0])
    ages = gather_ages(times, starts, lengths, now)
    assert ages.dtype == np.int32 and ages.tolist() == [1, 0, 0, 2**31 - 1, 0, 2**31 - 1]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("start", "length"), [(-1, 2), (4, 2), (2, -1), (6, 0), (0, 2**62), (2**62, 2**62)])
def test_a_range_outside_of_the_values_is_refused(start: int, length: int) -> None:
    starts, lengths = np.array([0, start]), np.array([0, length])
    values = np.arange(5)
    for call in (lambda: gather(values, starts, lengths), lambda: gather_ages(values, starts, lengths, starts)):
        with pytest.raises(ValueError, match=f"expected ranges within 5 values, got {length} values from {start} on"):
            call()


@pytest.mark.usefixtures("way")
def test_no_ranges() -> None:
    none = np.empty(0, np.int64)
    assert gather(np.arange(3), none, none).tolist() == [] == gather_ages(np.arange(3), none, none, none).tolist()


def test_the_extension_checks_its_buffers() -> None:
    host = native()
    assert host is not None
    values, starts, lengths = np.arange(4), np.array([0]), np.array([2])
    with pytest.raises(ValueError, match="ranges within 4 values, got 2 values from 3 on"):
        host.gather(values, 4, 8, starts + 3, lengths, np.empty(2, np.int64), 2)
    with pytest.raises(ValueError, match="expected room for 2 values, got it for 3"):
        host.gather(values, 4, 8, starts, lengths, np.empty(3, np.int64), 3)
    with pytest.raises(ValueError, match="2 elements of 8 bytes, got 8 bytes in elements of 4"):
        host.gather(values, 4, 8, starts, lengths, np.empty(2, np.int32), 2)
    with pytest.raises(ValueError, match="1 elements of 8 bytes"):
        host.gather_ages(values, 4, starts, lengths, np.array([1, 2]), np.empty(2, np.int32), 2)
