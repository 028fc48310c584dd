"""The ways of the lookup benchmark that the CPU has agree, and the others say why they are absent."""

from importlib.metadata import version

import pytest
import torch

from benchmarks.lookup import measure
from benchmarks.lookup.ways import DEVICE, HOST, INDEX_DEDUP, PLAIN, SORTED, TOY, WAYS, make_streams
from tests.helpers.devices import one_rank

HAS_SORTED = tuple(map(int, version("torchrec").split(".")[:2])) >= (1, 9)


def test_ways_agree_or_say_why_not() -> None:
    size = TOY[0]
    with one_rank("cpu") as ranks:
        lines = measure.measure_size(size, make_streams([size], "uniform")[size.duplicates], ranks.device, repeats=1)
    found = {line.way: line for line in lines}
    assert tuple(found) == WAYS
    for way in (PLAIN, HOST, DEVICE):
        assert found[way].why_not == "" and found[way].same_bits and found[way].after_step < 1e-6
    assert "jagged_unique_indices" in found[INDEX_DEDUP].why_not, "its operator has no CPU kernel"
    if HAS_SORTED:
        assert found[SORTED].why_not == found[INDEX_DEDUP].why_not
    else:
        assert found[SORTED].why_not == f"needs TorchRec 1.9 (set_use_sorted_select), here is {version('torchrec')}"


@pytest.mark.skipif(not HAS_SORTED, reason=f"TorchRec 1.9 has the sorted select, here is {version('torchrec')}")
def test_the_sorted_select_has_the_gradients_of_the_plain_one() -> None:
    """Rows that occur hundreds of times, and one that never does."""
    from torchrec.modules.sorted_index_select import (  # pyright: ignore[reportMissingImports]
        sorted_index_select,
    )

    rows = torch.randn(6, 8, requires_grad=True)
    index, grad = torch.randint(0, 5, (2000,)), torch.randn(2000, 8)
    out = sorted_index_select(rows, index)
    (found,) = torch.autograd.grad(out, rows, grad)
    (expected,) = torch.autograd.grad(rows.double().index_select(0, index), rows, grad.double())
    assert torch.equal(out, rows[index]) and torch.allclose(found, expected.float(), rtol=1e-5, atol=1e-5)
    assert not found[5].any()
