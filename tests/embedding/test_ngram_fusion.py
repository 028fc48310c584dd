"""One product is the sum of a product per sub-table, and what the average and its amplification do."""

import pytest
import torch

from dist_rec.common.ngram import Amplify, NgramSpec
from dist_rec.embedding.ngram_fusion import NgramFusion

DIM = 32


def fusion(amplify: Amplify, orders: list[int] | None = None) -> NgramFusion:
    return NgramFusion(NgramSpec(orders=orders or [2, 3], heads=2, rows=9, amplify=amplify), DIM)


def test_one_product_is_the_sum_of_a_product_per_sub_table() -> None:
    fused, rows = fusion("none"), torch.randn(7, DIM)
    parts = torch.randn(7, 4, DIM // 4)
    matrices = fused.project.weight.view(DIM, 4, DIM // 4)  # of each sub-table: (D, D / M)
    expected = rows + sum(parts[:, m] @ matrices[:, m].T for m in range(4))
    torch.testing.assert_close(fused(rows, parts.flatten(1)), expected / 5, rtol=0, atol=1e-6)


def test_without_a_projection_it_is_the_average() -> None:
    fused, rows = fusion("none"), torch.randn(7, DIM)
    torch.nn.init.zeros_(fused.project.weight)
    assert torch.equal(fused(rows, torch.randn(7, DIM)), rows * (1 / 5))


def test_amplification() -> None:
    rows, ngrams = torch.randn(2, 7, DIM)
    plain = fusion("none")
    scaled, normed = fusion("sqrt"), fusion("layer_norm")
    for other in (scaled, normed):
        other.project.load_state_dict(plain.project.state_dict())
    torch.testing.assert_close(scaled(rows, ngrams), plain(rows, ngrams) * DIM**0.5)
    expected = torch.nn.functional.layer_norm(plain(rows, ngrams), (DIM,))
    torch.testing.assert_close(normed(rows, ngrams), expected)


def test_each_part_starts_as_large_as_its_row() -> None:
    wide = NgramFusion(NgramSpec(orders=[2, 3], heads=2, rows=9), 1024)
    part = torch.randn(200, 256)
    grown = part @ wide.project.weight.detach()[:, :256].T
    assert 0.9 < float(grown.square().mean() / part.square().mean()) < 1.1


def test_under_autocast_sums_are_in_fp32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert fusion("layer_norm")(*torch.randn(2, 3, DIM)).dtype == torch.float32


def test_refuses_a_width_that_does_not_split() -> None:
    with pytest.raises(ValueError, match="multiple of 24"):
        NgramFusion(NgramSpec(orders=[2, 3, 4], heads=2, rows=9), DIM)
