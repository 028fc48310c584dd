import numpy as np

from dist_rec.common.id_hash import hashed_rows, mixed, raw_ids
from dist_rec.common.open_ids import HIDDEN_ID

# SplitMix64 seeded with 0 gives these one after the other (its state grows by the golden number); 1234567 gives the
# first one of the reference implementation's published list.
GOLDEN = 0x9E3779B97F4A7C15
STREAM = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]


def _signed(*values: int) -> np.ndarray:
    return np.array([value % 2**64 for value in values], np.uint64).view(np.int64)


def _splitmix64(seed: int) -> int:
    """In whole numbers, as the paper has it."""
    z = (seed + GOLDEN) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def test_the_hash_is_splitmix64_and_stays_so() -> None:
    assert mixed(_signed(*(GOLDEN * k for k in range(4)))).tolist() == STREAM
    assert mixed(_signed(1234567)).tolist() == [6457827717110365317]
    odd = [-1, 2**63 - 1, -(2**63), 2**62 + 1]
    assert mixed(_signed(*odd)).tolist() == [_splitmix64(seed) for seed in odd]


def test_rows_of_ids() -> None:
    ids = np.array([0, -1, 2**63 - 1, HIDDEN_ID + 1, 7, 47, HIDDEN_ID])
    rows = hashed_rows(ids, 40)
    assert rows.tolist() == [int(value) % 40 for value in mixed(ids[:-1]).tolist()] + [40], "the hidden mark last"
    assert hashed_rows(np.zeros(0, np.int64), 40).tolist() == []
    many = hashed_rows(np.arange(100_000), 1000)
    assert abs(np.bincount(many, minlength=1000).std() - 10) < 1, "as if by chance"


def test_the_mark_of_hidden_events_is_no_id() -> None:
    assert raw_ids(np.array([HIDDEN_ID, -1])).tolist() == [HIDDEN_ID + 1, -1]
    assert raw_ids(np.array([3], np.int32)).dtype == np.int64
