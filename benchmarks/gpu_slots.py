"""Attention within merged groups around 65,536 of them, where torch's own attention changes its ways on a GPU.

    python -m benchmarks.gpu_slots

Time of forward and backward in bf16, by this project's kernel and by plain maths; both must agree.
"""

from functools import partial

import torch

from benchmarks.harness import measure_on_gpu, measure_side_by_side
from dist_rec.kernels.slot_attention import Backend, slot_attention

GROUPS, SLOTS, HEADS, SIZE = (60_000, 65_535, 65_536, 70_000, 256_000), 4, 4, 16


def main() -> None:
    on_gpu = torch.cuda.is_available()
    device, fused, measure = torch.device("cpu"), "torch", measure_side_by_side
    if on_gpu:
        device, fused, measure = torch.device("cuda"), "triton", measure_on_gpu
    for groups in GROUPS if on_gpu else GROUPS[:1]:
        qkv = torch.randn(groups, SLOTS, 3, HEADS, SIZE, device=device, dtype=torch.bfloat16, requires_grad=True)
        real = torch.rand(groups, SLOTS, device=device) > 0.1

        def run(backend: Backend, qkv: torch.Tensor = qkv, real: torch.Tensor = real) -> torch.Tensor:
            out = slot_attention(qkv, real, backend=backend)
            (grad,) = torch.autograd.grad(out.float().square().sum(), qkv)
            return grad

        plain, mine = run("reference"), run(fused)
        assert (plain - mine).abs().max() <= 0.05 * plain.abs().max(), "the two disagree"
        times = measure({"kernel": partial(run, fused), "plain": partial(run, "reference")}, repeats=10)
        print(
            f"{groups} groups, ms (20th / 50th / 80th percentile): " + ", ".join(f"{n} {t}" for n, t in times.items())
        )


if __name__ == "__main__":
    main()
