"""Ids made unique and where they occur, against plain Python."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dist_rec.kernels.unique_ids import Segments, pack_index, segments_of, unique_ids, unique_ids_bounded
from dist_rec.kernels.unique_ids.reference import reference_segments, reference_unique


def _assert_segments(found: Segments, index: Tensor, num_values: int) -> None:
    order, offsets = reference_segments(index, num_values)
    assert found.order.dtype == found.offsets.dtype == torch.int32
    assert found.order.tolist() == order and found.offsets.tolist() == offsets


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3), max_size=40))
@settings(max_examples=60, deadline=None)
def test_any_ids(values: list[int]) -> None:
    ids = torch.tensor(values, dtype=torch.int64)
    found, expected = unique_ids(ids), reference_unique(ids)
    assert (found.values.tolist(), found.inverse.tolist()) == expected
    assert found.values.dtype == torch.int64 and found.inverse.dtype == torch.int32
    _assert_segments(found.segments, found.inverse, len(expected[0]))


@given(st.lists(st.integers(-5, 5), max_size=40))
@settings(max_examples=40, deadline=None)
def test_bounded_is_the_same_with_room_behind(values: list[int]) -> None:
    ids = torch.tensor(values, dtype=torch.int32)
    exact, bounded = unique_ids(ids), unique_ids_bounded(ids)
    count = int(bounded.count)
    assert count == len(exact.values) and bounded.count.dim() == 0
    assert torch.equal(bounded.values[:count], exact.values) and torch.equal(bounded.inverse, exact.inverse)
    assert torch.equal(bounded.segments.order, exact.segments.order)
    assert torch.equal(bounded.segments.offsets[: count + 1], exact.segments.offsets)
    assert bounded.values.shape == ids.shape and not bounded.values[count:].any()
    assert bounded.segments.offsets.shape == (len(ids) + 1,) and (bounded.segments.offsets[count:] == len(ids)).all()


@pytest.mark.parametrize("num_values", [1, 2, 126, 127, 128, 129, 2**15 - 2, 2**15 - 1, 2**15, 10**6])
def test_segments_around_every_width_of_key(num_values: int) -> None:
    index = torch.randint(0, num_values, (300,))
    index[:3] = num_values - 1
    found = segments_of(index, num_values)
    assert torch.equal(found.order, torch.sort(index, stable=True)[1].int())
    counts = torch.bincount(index, minlength=num_values)
    assert torch.equal(found.offsets.diff().long(), counts) and found.offsets[0] == 0


@given(st.lists(st.integers(0, 9), max_size=50))
@settings(max_examples=30, deadline=None)
def test_segments_of_every_form_of_an_index(values: list[int]) -> None:
    index = torch.tensor(values, dtype=torch.int64)
    for form in (index, index.int(), pack_index(index, 10)):
        _assert_segments(segments_of(form, 10), index, 10)


def test_no_position() -> None:
    _assert_segments(segments_of(torch.zeros(0, dtype=torch.int32), 3), torch.zeros(0), 3)
    _assert_segments(segments_of(torch.zeros(0, dtype=torch.int32), 0), torch.zeros(0), 0)


@pytest.mark.parametrize("num_values", [2, 127, 128, 2**15, 2**17])
def test_values_outside_belong_to_nobody(num_values: int) -> None:
    """Whatever width the keys have: values that would become others when they are cut."""
    below, above = [-1, -256, -(2**16), -(2**31)], [num_values, num_values + 2**16, 2**32]
    found = segments_of(torch.tensor([1, *below, 0, *above, 1]), num_values)
    assert found.order.tolist()[4:7] == [5, 0, 9] and found.offsets[:3].tolist() == [4, 5, 7] and found.offsets[-1] == 7


def test_nothing_waits_for_the_device() -> None:
    """Tensors on the meta device have no values, and whatever reads one raises."""
    ids = torch.zeros(10, dtype=torch.int64, device="meta")
    assert unique_ids_bounded(ids).values.shape == (10,)
    assert segments_of(ids, 5).offsets.shape == (6,)
    with pytest.raises(RuntimeError):
        unique_ids(ids)


class _Reads(TorchDispatchMode):
    """Counts the operators that bring a value to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **kwargs or {})


def test_the_exact_form_waits_once() -> None:
    with _Reads() as reads:
        unique_ids(torch.tensor([3, 1, 3]))
    assert reads.count == 1


def test_what_is_no_list_of_ids_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ids must be \(N,\) int32 or int64, got \(2, 2\) torch.float32"):
        unique_ids(torch.zeros(2, 2))
