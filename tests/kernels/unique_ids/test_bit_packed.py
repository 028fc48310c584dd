"""The bit stream of a packed index: its layout, every width, what it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dist_rec.kernels.unique_ids import BitPackedIndex, index_bits, pack_index, unpack_index
from dist_rec.kernels.unique_ids.bit_packed import num_words

LENGTHS = (0, 1, 2, 31, 32, 33, 63, 64, 65, 1000)
BACKENDS = ("torch", "reference", "triton")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _stream(packed: BitPackedIndex) -> int:
    """All words as one number, the first word lowest."""
    return sum((word & 0xFFFFFFFF) << 32 * place for place, word in enumerate(packed.words.tolist()))


def _values(length: int, num_values: int) -> Tensor:
    return torch.randint(0, num_values, (length,))


@pytest.mark.parametrize(
    ("num_values", "bits"),
    [(0, 1), (1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (256, 8), (257, 9), (2**17, 17), (2**31 - 1, 31), (2**31, 31)],
)
def test_bits_are_the_fewest_that_tell_the_values_apart(num_values: int, bits: int) -> None:
    assert index_bits(num_values) == bits


@pytest.mark.parametrize("num_values", [-1, 2**31 + 1])
def test_values_beyond_int32_are_refused(num_values: int) -> None:
    with pytest.raises(ValueError, match=r"num_values must be 0 to 2\^31"):
        index_bits(num_values)


@pytest.mark.parametrize("bits", range(1, 32))
def test_the_layout(bits: int) -> None:
    """Element i at bits [i * bits, (i + 1) * bits), lowest first, with a spare word behind."""
    index = _values(77, 2**bits)
    index[:2] = torch.tensor([2**bits - 1, 0])
    packed = pack_index(index, 2**bits)
    assert packed.bits == bits and len(packed.words) == -(-77 * bits // 32) + 1 and packed.words[-1] == 0
    assert _stream(packed) == sum(value << bits * i for i, value in enumerate(index.tolist()))


@given(st.integers(1, 31), st.integers(0, 140), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_there_and_back(bits: int, length: int, seed: int) -> None:
    """Every width and length, from either integer type, by every backend, bitwise."""
    index = torch.randint(0, 2**bits, (length,), generator=torch.Generator().manual_seed(seed))
    packed = pack_index(index, 2**bits)
    assert torch.equal(packed.words, pack_index(index.int(), 2**bits).words)
    for backend in BACKENDS:
        unpacked = unpack_index(packed.to(DEVICE), backend=backend)
        assert unpacked.dtype == torch.int32 and torch.equal(unpacked.cpu(), index.int())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("length", LENGTHS)
def test_words_of_32_bits_are_the_index_itself(length: int, backend: str) -> None:
    index = torch.randint(-(2**31), 2**31, (length,)).int()
    packed = BitPackedIndex(torch.cat([index, torch.zeros(1, dtype=torch.int32)]), 32, length)
    assert torch.equal(unpack_index(packed.to(DEVICE), backend=backend).cpu(), index)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_spare_word_may_hold_anything(backend: str) -> None:
    packed = pack_index(_values(65, 2**31), 2**31).to(DEVICE)
    expected = unpack_index(packed, backend=backend)
    packed.words[-1] = -1
    assert torch.equal(unpack_index(packed, backend=backend), expected)


def test_a_strided_index() -> None:
    index = _values(200, 50)
    assert torch.equal(unpack_index(pack_index(index[::2], 50)), index[::2].int())


@pytest.mark.parametrize("values", [[0, 5, 2], [-1, 0, 1], [2**32, 0, 1]])
def test_values_outside_are_refused(values: list[int]) -> None:
    with pytest.raises(ValueError, match=rf"values must be in \[0, 5\), got {min(values)} to {max(values)}"):
        pack_index(torch.tensor(values), 5)


@pytest.mark.parametrize(
    "index", [torch.zeros(3), torch.zeros(2, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int16)]
)
def test_what_is_no_index_is_refused(index: Tensor) -> None:
    with pytest.raises(ValueError, match="must be \\(N,\\) int32 or int64, got"):
        pack_index(index, 5)


def test_words_must_fit_the_length() -> None:
    words = torch.zeros(4, dtype=torch.int32)
    with pytest.raises(ValueError, match=r"33 elements of 3 bits need words \(5,\) int32, got \(4,\) torch.int32"):
        BitPackedIndex(words, 3, 33)
    with pytest.raises(ValueError, match=r"int32, got \(4,\) torch.int64"):
        BitPackedIndex(words.long(), 3, 32)
    with pytest.raises(ValueError, match="bits must be 1 to 32, got 33"):
        BitPackedIndex(words, 33, 1)


def test_it_moves_like_a_tensor() -> None:
    packed = pack_index(_values(100, 1000), 1000)
    moved = packed.to("meta", non_blocking=True)
    assert moved.device.type == "meta" and (moved.bits, len(moved)) == (10, 100)
    assert packed.nbytes == 4 * num_words(100, 10) == 132
