import torch

from dist_rec.models.baselines.sum_pooling import SumPooling
from tests.models.batches import make_view


def test_averages_and_ignores_order() -> None:
    tokens, lengths = torch.randn(5, 4, dtype=torch.float64), torch.tensor([3, 2], dtype=torch.int32)
    pool, view = SumPooling(4), make_view([1, 2])
    out = pool(tokens, lengths, view)
    assert pool.width == 4 and out.shape == (3, 4)
    torch.testing.assert_close(out[0], tokens[:3].mean(0), rtol=0.0, atol=1e-15)
    torch.testing.assert_close(pool(tokens[[2, 0, 1, 4, 3]], lengths, view), out, rtol=0.0, atol=1e-15)
