"""The kernel and the plain form give the definition's ids, to the bit; in Triton's interpreter without a GPU."""

import pytest
import torch
from hypothesis import given, settings

from dist_rec.common.ngram import NgramSpec
from dist_rec.kernels.common.backend import Backend
from dist_rec.kernels.ngram_ids.op import tile
from tests.kernels.ngram_ids.cases import HIDDEN, Case, cases


@pytest.mark.parametrize("backend", ["triton", "torch"])
@given(case=cases())
@settings(max_examples=60, deadline=None)
def test_follows_its_definition(backend: Backend, case: Case) -> None:
    assert torch.equal(case.ids(backend), case.ids("reference"))


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("hash", ["mixed", "polynomial"])
def test_sequences_around_every_size_of_a_tile(backend: Backend, hash: str) -> None:
    rows = {"rows": [10_007, 20_011] * 2} | ({"hash": hash, "base": 103} if hash == "polynomial" else {})
    spec = NgramSpec.model_validate({"gap_seconds": 40} | rows)
    events = tile(spec.tables)["BN"]
    lengths = [events - 1, 1, 0, events + 1, 2, 0]
    torch.manual_seed(0)
    values, times = (torch.randint(20, (sum(lengths),)).tolist() for _ in range(2))
    case = Case(values, [2 * t for t in times], lengths, spec, HIDDEN)
    assert torch.equal(case.ids(backend), case.ids("reference"))


@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("hash", ["mixed", "polynomial"])
def test_the_largest_tables_and_ids_do_not_overflow(backend: Backend, hash: str) -> None:
    rows = [2**31 - 1]
    spec = NgramSpec.model_validate(
        {"orders": [4], "heads": 1, "rows": rows}
        | ({"hash": hash, "base": 2**30 + 2**28 + 7} if hash != "mixed" else {})
    )
    values = [2**63 - 2, 2**31 - 2, 2**31 - 3, 2**62, 0, 2**63 - 2]
    case = Case(values, [0] * 6, [6], spec, None)
    assert torch.equal(case.ids(backend), case.ids("reference"))
    assert bool((case.ids(backend) >= 0).all())
