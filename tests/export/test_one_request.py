"""The operators for one request are the project's own."""

import pytest
import torch

from dist_rec.export.one_request import OneRequest, one_length
from dist_rec.kernels.cross_causal_attention import Mask, cross_causal_attention
from dist_rec.kernels.gather_pool import expand, expand_add, pool
from dist_rec.kernels.gelu import gelu
from dist_rec.kernels.jagged_range import jagged_range
from dist_rec.kernels.prefix_sum import prefix_sum
from dist_rec.kernels.slot_attention import slot_attention


def offsets(*ends: int) -> torch.Tensor:
    return torch.tensor([0, *ends], dtype=torch.int32)


@pytest.mark.parametrize("events", [0, 1, 7])
@pytest.mark.parametrize(("candidates", "m"), [(0, 0), (1, 2), (3, 2)])
def test_attention(events: int, candidates: int, m: int) -> None:
    torch.manual_seed(0)
    rows = candidates * m if candidates else 3
    keys = events + candidates * m
    q, kv = torch.randn(rows, 2, 4), torch.randn(keys, 4, 4)
    counts = torch.tensor([candidates], dtype=torch.int32) if candidates else None
    masks = [Mask(num_candidates=counts, group_size=max(m, 1)), Mask(causal=False)]
    masks += [] if candidates or not keys else [Mask(q_positions=torch.tensor([-1, 0, keys - 1]))]
    for mask in masks:
        call = (q, kv, None, offsets(rows), offsets(keys))
        wanted = cross_causal_attention(*call, mask=mask)
        with OneRequest():
            got = cross_causal_attention(*call, mask=mask, max_q_len=rows)
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 6])
def test_the_others(count: int) -> None:
    torch.manual_seed(0)
    rows, index, ends = torch.randn(5, 4), torch.randint(0, 5, (count,), dtype=torch.int32), offsets(count)
    table, other = torch.randn(3, 4), torch.randint(0, 3, (count,), dtype=torch.int32)
    qkv, real = torch.randn(count, 3, 3, 2, 4), torch.rand(count, 3) > 0.3
    calls = [
        lambda: expand(rows, index),
        lambda: expand_add(rows, index, [(table, other)], gelu=True),
        lambda: pool(rows, index, ends, mode="mean"),
        lambda: pool(rows, index, ends, mode="sum"),
        lambda: prefix_sum(rows[index.long()], ends),
        lambda: gelu(rows),
        lambda: jagged_range(None, ends, count, step=0, dtype=torch.int32),
        lambda: jagged_range(torch.tensor([4], dtype=torch.int32), ends, count, step=-1, most=3),
        lambda: slot_attention(qkv, real),
    ]
    for number, call in enumerate(calls):
        with OneRequest():
            got = call()
        torch.testing.assert_close(got, call(), rtol=1e-5, atol=1e-6, msg=f"call {number}")


def test_lengths_of_one_request_count_as_others_do() -> None:
    lengths = one_length(7)
    assert (lengths.total, lengths.offsets.tolist(), lengths.tensor.tolist()) == (7, [0, 7], [7])
    assert lengths.clipped(3).total == 3 and lengths.clipped(30).total == 7
    assert lengths.times(2).total == 14 and lengths.plus(one_length(2)).total == 9
    assert lengths.map(lambda n: (n + 1) // 2).total == 4
