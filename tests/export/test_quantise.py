"""Rows in fewer bits, as FBGEMM has them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.export.quantise import quantised, stored_shapes
from dist_rec.serve.tables import Int4Rows, Int8Rows


@pytest.mark.parametrize("stored", ["fp32", "fp16", "int8", "int4"])
def test_tensors_are_those_that_are_announced(stored: str) -> None:
    rows = torch.randn(6, 4)
    found = quantised(stored, rows)  # pyright: ignore[reportArgumentType]
    shapes = stored_shapes(stored, 6, 4)  # pyright: ignore[reportArgumentType]
    assert {name: (of.dtype, tuple(of.shape)) for name, of in found.items()} == shapes


def test_an_odd_width_has_no_pairs() -> None:
    with pytest.raises(ValueError, match="even width for int4, got 3"):
        stored_shapes("int4", 6, 3)


def test_int8_is_fbgemms() -> None:
    import fbgemm_gpu  # noqa: F401 - its operators

    rows = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    theirs = torch.ops.fbgemm.FloatToFused8BitRowwiseQuantized(rows)
    back = torch.ops.fbgemm.Fused8BitRowwiseQuantizedToFloat(theirs)
    ours = Int8Rows(**quantised("int8", rows))(torch.arange(50))
    step = (rows.amax(1) - rows.amin(1))[:, None] / 255
    assert bool(((ours - back).abs() <= 1.01 * step).all())  # of two neighbours, where a value is between them
    assert float((ours - rows).abs().mean()) <= 1.01 * float((back - rows).abs().mean())


@given(st.integers(1, 5), st.integers(0, 2**31), st.sampled_from([1e-30, 1.0, 1e4]))
def test_constant_and_extreme_rows_come_back(count: int, seed: int, scale: float) -> None:
    constant = torch.full((count, 4), scale)
    assert torch.allclose(Int8Rows(**quantised("int8", constant))(torch.arange(count)), constant, rtol=1e-6)
    assert torch.allclose(Int4Rows(**quantised("int4", constant))(torch.arange(count)), constant, rtol=1e-3, atol=1e-7)
    rows = scale * torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    assert bool(Int8Rows(**quantised("int8", rows))(torch.arange(count)).isfinite().all())
