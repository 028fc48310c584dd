"""N-grams of one key of a KeyedJaggedTensor."""

from typing import Any

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.common.ngram import NgramSpec
from dist_rec.data.ngram.features import ngram_ids
from tests.kernels.ngram_ids.cases import Case

LENGTHS, VALUES, TIMES = [2, 0, 3], [4, 2, 6, 1, 0], [0, 5, 1, 30, 31]


def features(values: Any = VALUES) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(
        keys=["user", "item", "when"],
        values=torch.tensor([1, 2, 3, *values, *TIMES], dtype=torch.int32),
        lengths=torch.tensor([1, 1, 1, *LENGTHS, *LENGTHS]),
    )


@pytest.mark.parametrize("gap", [None, 10])
def test_ids_of_an_event_lie_side_by_side(gap: int | None) -> None:
    spec = NgramSpec(orders=[2, 3], heads=2, rows=50, gap_seconds=gap)
    made = ngram_ids(features(), "item", spec, name="pairs", hidden=6, times="when")
    assert made.keys() == ["pairs"] and made.stride() == 3 and made.values().dtype == torch.int64
    assert made["pairs"].lengths().tolist() == [length * spec.tables for length in LENGTHS]
    expected = Case(VALUES, TIMES, LENGTHS, spec, 6).ids("reference")
    assert torch.equal(made["pairs"].values().view(-1, spec.tables), expected)


def test_no_samples_and_no_events() -> None:
    spec = NgramSpec(rows=50)
    nothing = KeyedJaggedTensor(
        keys=["item"], values=torch.zeros(0, dtype=torch.int64), lengths=torch.zeros(2, dtype=torch.int32)
    )
    made = ngram_ids(nothing, "item", spec)
    assert made.stride() == 2 and made.values().tolist() == [] and made.lengths().tolist() == [0, 0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"key": "title"}, "no key 'title' in the features; there are: user, item, when"),
        ({"times": "date"}, "no key 'date'"),
        ({"spec": NgramSpec(rows=5, gap_seconds=3)}, "gap_seconds=3 needs the times of the events"),
        ({"spec": NgramSpec(rows=5, gap_seconds=3), "times": "user"}, r"times must be \(5,\)"),
    ],
)
def test_refuses(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ngram_ids(**({"features": features(), "key": "item", "spec": NgramSpec(rows=5)} | given))
