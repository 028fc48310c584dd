"""How large a step may be on a parabola before it diverges, synchronous and one step delayed, against theory.

`W <- W - lr m` with m an exponential mean of gradients lambda W (factor b of the past; b = 0 is plain SGD). The
synchronous update is stable for lr lambda < 2 (1 + b) / (1 - b), the delayed one for lr lambda < 1, whatever b: the
roots of the characteristic polynomial leave the unit circle there. (For b = 0 and delay d the limit is 2 sin(pi / (2 (2
d + 1))).)"""

import torch
from torch import nn

from dist_rec.common.choices import CorrectionKind, DenseUpdate
from dist_rec.optim.hybrid import HybridOptimizer

STEPS = 2000
MOMENTA = (0.0, 0.9, 0.95)
WAYS: dict[str, tuple[DenseUpdate, CorrectionKind]] = {
    "sync": ("sync", "none"),
    "delayed": ("delayed", "none"),
    "delayed, extrapolated": ("delayed", "extrapolate"),
    "delayed, error feedback": ("delayed", "error_feedback"),
}


def is_stable(rate: float, momentum: float, update: DenseUpdate, correction: CorrectionKind) -> bool:
    """Whether the weight of W^2 / 2 (curvature one) still shrinks at the end of `STEPS` steps of the real optimizer."""
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    module = nn.ParameterDict({"w": weight})

    def sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=rate, momentum=momentum, dampening=momentum)

    optimizer = HybridOptimizer(module, sgd, dense_update=update, warmup_sync_steps=0, correction=correction)
    sizes: list[float] = []
    while len(sizes) < STEPS and (not sizes or sizes[-1] < 1e6):
        optimizer.zero_grad()
        (0.5 * weight.square()).sum().backward()
        optimizer.step()
        sizes.append(weight.abs().item())
    tenth = STEPS // 10
    last, before = max(sizes[-tenth:]), max(sizes[-2 * tenth : -tenth], default=0.0)
    return len(sizes) == STEPS and (last < before or last == 0.0)


def limit(momentum: float, update: DenseUpdate, correction: CorrectionKind) -> float:
    """Largest stable lr x curvature, to 0.5 %."""
    low, high = 0.01, 100.0
    while high / low > 1.005:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if is_stable(middle, momentum, update, correction) else (low, middle)
    return low


def theory(momentum: float, way: str) -> str:
    if way == "sync":
        return f"{2 * (1 + momentum) / (1 - momentum):.3g}"
    return "1" if way == "delayed" else "-"


def stability() -> list[str]:
    lines = [
        f"| update | {' | '.join(f'b = {b}: measured | theory' for b in MOMENTA)} |",
        "| --- " * (1 + 2 * len(MOMENTA)) + "|",
    ]
    for way, (update, correction) in WAYS.items():
        cells = [f"{limit(b, update, correction):.3g} | {theory(b, way)}" for b in MOMENTA]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return lines
