import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dist_rec.optim.buckets import Bucket, lay_out


def _parameters(sizes: list[int], dtypes: list[torch.dtype]) -> dict[str, nn.Parameter]:
    return {f"p{i}": nn.Parameter(torch.zeros(size, dtype=dtype)) for i, (size, dtype) in enumerate(zip(sizes, dtypes))}


@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=12),
    kinds=st.lists(st.sampled_from((torch.float32, torch.bfloat16)), min_size=12, max_size=12),
    cap=st.integers(1, 400),
)
def test_every_parameter_is_in_one_bucket_of_its_kind(sizes: list[int], kinds: list[torch.dtype], cap: int) -> None:
    parameters = _parameters(sizes, kinds)
    buckets = lay_out(parameters, cap)
    names = [name for bucket in buckets for name in bucket.parameters]
    assert sorted(names) == sorted(parameters)
    for bucket in buckets:
        assert {p.dtype for p in bucket.parameters.values()} == {bucket.dtype}
        assert len(bucket.parameters) == 1 or sum(p.nbytes for p in bucket.parameters.values()) <= cap
        positions = [list(parameters).index(name) for name in bucket.parameters]
        assert positions == sorted(positions, reverse=True), "the last parameter first, as a backward meets them"


def test_views_show_each_parameter_in_its_shape() -> None:
    shapes = {"a": (2, 3), "none": (0, 4), "scalar": (), "b": (4,)}
    bucket = Bucket({name: nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()})
    views = dict(bucket.views(torch.arange(11.0)))
    assert {name: tuple(view.shape) for name, view in views.items()} == shapes
    assert (
        views["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and views["scalar"] == 6 and views["b"].tolist() == [7, 8, 9, 10]
    )


def test_buffers_are_reused_and_counted() -> None:
    bucket = Bucket({"a": nn.Parameter(torch.zeros(8))}, torch.bfloat16)
    assert bucket.nbytes == 0
    first, second = bucket.take(), bucket.take()
    assert first.dtype == torch.bfloat16 and bucket.nbytes == 2 * 8 * 2
    bucket.give_back(first)
    assert bucket.take() is first and bucket.nbytes == 2 * 8 * 2 and second is not first


def test_only_fp32_is_reduced_in_another_dtype() -> None:
    parameters = _parameters([4, 4], [torch.float32, torch.float64])
    dtypes = {bucket.dtype: bucket.reduce_dtype for bucket in lay_out(parameters, 100, torch.bfloat16)}
    assert dtypes == {torch.float32: torch.bfloat16, torch.float64: torch.float64}


def test_wiping_leaves_nothing_in_free_buffers() -> None:
    (bucket,) = lay_out(_parameters([3, 2], [torch.float32] * 2), 1000)
    used, free = bucket.take().fill_(1.0), bucket.take().fill_(2.0)
    bucket.give_back(free)
    bucket.wipe()
    assert not free.any() and used.all()
