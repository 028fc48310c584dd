"""The kernel and the plain form against the definition; in Triton's interpreter where there is no GPU."""

from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rec.kernels.common.backend import Backend
from dist_rec.kernels.jagged_range import jagged_range
from dist_rec.kernels.jagged_range.op import BN

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LENGTHS = st.lists(st.sampled_from((0, 0, 1, 2, 7, 33, BN - 1, BN, BN + 1)), max_size=9)


def numbers(lengths: list[int], first: list[int] | None, backend: Backend, **options: int | torch.dtype) -> list[int]:
    device = DEVICE if backend == "triton" else torch.device("cpu")
    offsets = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
    firsts = None if first is None else torch.tensor(first, dtype=torch.int32, device=device)
    dtype = options.get("dtype", torch.int64)
    made = jagged_range(firsts, offsets, sum(lengths), backend=backend, **options)  # pyright: ignore[reportArgumentType]
    assert made.shape == (sum(lengths),) and made.dtype == dtype
    return made.tolist()


@pytest.mark.parametrize("backend", ["triton", "torch", "reference"])
@given(data=st.data(), lengths=LENGTHS, step=st.sampled_from((-1, 0, 1)), most=st.none() | st.integers(-3, 40))
@settings(max_examples=40, deadline=None)
def test_follows_its_definition(
    backend: Backend, data: st.DataObject, lengths: list[int], step: int, most: int | None
) -> None:
    firsts = st.lists(st.integers(-50, 2**31 - 2000), min_size=len(lengths), max_size=len(lengths))
    first = data.draw(st.none() | firsts)
    starts = first or (list(range(len(lengths))) if step == 0 else [0] * len(lengths))
    wanted = [start + step * i for start, length in zip(starts, lengths, strict=True) for i in range(length)]
    if most is not None:
        wanted = [min(number, most) for number in wanted]
    assert numbers(lengths, first, backend, step=step, most=most) == wanted  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 9, 64, 100])
def test_every_number_of_sequences(count: int) -> None:
    lengths = [i % 3 for i in range(count)]
    owners = [b for b, n in enumerate(lengths) for _ in range(n)]
    assert numbers(lengths, None, "triton", step=0, dtype=torch.int32) == owners
