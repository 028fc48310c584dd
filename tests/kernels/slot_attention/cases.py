"""Random groups of slots, and the truth about them."""

from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from dist_rec.kernels.slot_attention import Backend, slot_attention
from tests.helpers.closeness import assert_close_to_truth, farthest

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Case:
    """`qkv` (M, K, 3, H, D) and `real` (M, K) bool."""

    qkv: Tensor
    real: Tensor

    def to(self, dtype: torch.dtype) -> "Case":
        return replace(self, qkv=self.qkv.to(dtype))

    def run(self, backend: Backend) -> tuple[Tensor, Tensor]:
        """Output, and the gradient of a random weighting of it for qkv."""
        device = DEVICE if backend == "triton" else torch.device("cpu")
        qkv = self.qkv.to(device).requires_grad_()
        out = slot_attention(qkv, self.real.to(device), backend=backend)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
        (grad,) = torch.autograd.grad((out * weights.to(out)).sum(), qkv)
        return out.detach().cpu(), grad.cpu()


def make_case(groups: int, slots: int, heads: int, size: int, hidden: float = 0.3, seed: int = 0) -> Case:
    """Numbers that fit fp16; `hidden` is the share of slots that are not real, of whole groups too."""
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(groups, slots, 3, heads, size, generator=generator).half().double()
    return Case(qkv, torch.rand(groups, slots, generator=generator) >= hidden)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """An ordinary number of groups, whose errors set the scale; any number of slots; heads of odd sizes too."""
    return make_case(
        draw(st.sampled_from((9, 20))),
        draw(st.integers(1, 16)),
        draw(st.integers(1, 3)),
        draw(st.sampled_from((1, 3, 4, 8, 16, 20))),
        draw(st.sampled_from((0.0, 0.3, 1.0))),
        draw(st.integers(0, 99)),
    )


def assert_true(case: Case, backend: Backend) -> None:
    """As close to the truth as plain softmax attention in the same precision, in some order of slots and elements."""
    shuffle = torch.Generator().manual_seed(2)
    plain = [_plain(case, shuffle) for _ in range(6)]
    truth = case.to(torch.float64).run("reference")
    for got, exact, *rough in zip(case.run(backend), truth, *plain, strict=True):
        assert_close_to_truth(got, exact, farthest(rough, exact))


def _plain(case: Case, shuffle: torch.Generator) -> tuple[Tensor, Tensor]:
    slots = torch.randperm(case.qkv.shape[1], generator=shuffle)
    elements = torch.randperm(case.qkv.shape[4], generator=shuffle)
    moved = Case(case.qkv[:, slots][..., elements], case.real[:, slots])
    qkv = moved.qkv.requires_grad_()
    q, k, v = qkv.unbind(2)
    hidden = ~moved.real[:, None, None, :]
    scores = torch.einsum("mihd,mjhd->mhij", q, k) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(hidden & moved.real.any(1)[:, None, None, None], float("-inf"))
    out = torch.einsum("mhij,mjhd->mihd", scores.softmax(-1).masked_fill(hidden, 0.0), v)
    back, home = slots.argsort(), elements.argsort()
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(out)
    (grad,) = torch.autograd.grad((out[:, back][..., home] * weights).sum(), qkv)
    return out.detach()[:, back][..., home], grad[:, back][..., home]
