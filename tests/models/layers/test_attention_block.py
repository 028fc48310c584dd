import pytest
import torch

from dist_rec.kernels.cross_causal_attention import Mask
from dist_rec.models.layers.attention_block import AttentionRows, CrossCausalBlock, rotate


def _rows(rotary: bool = False, shift: float = 0.0, stretch: float = 1.0) -> AttentionRows:
    """One request: 5 events, 2 candidates of one row each; the newest 2 events and both candidates ask."""
    positions = stretch * (torch.tensor([0, 1, 2, 3, 4, 5, 5]) + shift)
    return AttentionRows(
        q_offsets=torch.tensor([0, 4], dtype=torch.int32),
        kv_offsets=torch.tensor([0, 7], dtype=torch.int32),
        mask=Mask(num_candidates=torch.tensor([2], dtype=torch.int32)),
        max_q_len=4,
        q_rotary=positions[3:] if rotary else None,
        kv_rotary=positions if rotary else None,
    )


def _block(dropout: float = 0.0) -> CrossCausalBlock:
    torch.manual_seed(0)
    return CrossCausalBlock(16, heads=2, expansion=4, dropout=dropout).double()


@pytest.mark.parametrize("width", [8, 32, 256])
def test_parameters_of_the_published_formula(width: int) -> None:
    block = CrossCausalBlock(width, heads=4, expansion=4, dropout=0.0)
    assert sum(p.numel() for p in block.parameters()) == 12 * width**2 + 13 * width


def test_residual_goes_around_the_query_rows() -> None:
    block, keys = _block(), torch.randn(7, 16, dtype=torch.float64)
    torch.nn.init.zeros_(block.project.weight)
    torch.nn.init.zeros_(block.project.bias)
    torch.nn.init.zeros_(block.ffn[-1].weight)
    torch.nn.init.zeros_(block.ffn[-1].bias)
    assert torch.equal(block(keys[3:], keys, _rows()), keys[3:])


def test_rotary_depends_on_distances_alone() -> None:
    keys = torch.randn(7, 16, dtype=torch.float64)
    block = _block()
    here = block(keys[3:], keys, _rows(rotary=True))
    # The angles are computed in fp32.
    moved = block(keys[3:], keys, _rows(rotary=True, shift=1000.0))
    torch.testing.assert_close(moved, here, rtol=0.0, atol=1e-4)
    assert (block(keys[3:], keys, _rows(rotary=True, stretch=3.0)) - here).abs().max() > 1e-3
    assert (block(keys[3:], keys, _rows()) - here).abs().max() > 1e-3


def test_rotation_is_a_complex_product() -> None:
    """arXiv 2104.09864: pair i turns by position * base^(-2i / D); lengths stay."""
    x, position = torch.randn(5, 3, 8, dtype=torch.float64), torch.tensor([0.0, 1.0, 2.0, 7.0, 100.0])
    turned = rotate(x, position, base=100.0)
    angles = position.double()[:, None, None] * 100.0 ** (-2 * torch.arange(4, dtype=torch.float64) / 8)
    expected = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(turned, torch.cat([expected.real, expected.imag], -1), rtol=0.0, atol=1e-4)
    assert torch.equal(turned[0], x[0])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=0.0)


def test_dropout_acts_in_training_only() -> None:
    block, keys = _block(dropout=0.5), torch.randn(7, 16, dtype=torch.float64)
    assert not torch.equal(block(keys[3:], keys, _rows()), block(keys[3:], keys, _rows()))
    block.eval()
    assert torch.equal(block(keys[3:], keys, _rows()), block(keys[3:], keys, _rows()))
