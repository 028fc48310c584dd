"""torch.optim.Muon in about a hundred launches instead of 25 for every matrix.

Gradients and momenta are taken together as flat tensors. The matrices are orthogonalised in a few batches of equal
size: on a GPU smaller ones are filled up with zeros, which stay zeros and change nothing. Settings, state and maths are
those of torch; results differ by rounding.

Legend: M matrices of a batch, R rows, C columns, R <= C; P numbers in all matrices together.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.optim._muon import _adjust_lr

SMALLEST = (128, 512)  # rows and columns on a GPU, where a product of smaller matrices takes as long


class BatchedMuon(torch.optim.Muon):
    """Settings as of torch.optim.Muon.

    Args:
        dtype: of the Newton-Schulz iterations; bf16 as in torch.
        fill: fill matrices up to common sizes, so that there are few batches; by default on a GPU, where launches cost
            more than zeros.

    Memory: while it steps, about five copies of the matrices; always, two int64 for every number.
    """

    _step_supports_amp_scaling = True  # torch's name: `step` reads `grad_scale` and `found_inf`, () on the device

    def __init__(
        self,
        params: Any,
        *,
        lr: float,
        weight_decay: float = 0.1,
        adjust_lr_fn: str | None = None,
        dtype: torch.dtype = torch.bfloat16,
        fill: bool | None = None,
    ) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, adjust_lr_fn=adjust_lr_fn)
        self.dtype, self.fill = dtype, fill
        self._layouts: dict[Any, _Layout] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Of a copy, in a pickle too; places of numbers are found anew."""
        return super().__getstate__() | {"dtype": self.dtype, "fill": self.fill, "_layouts": {}}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            alike: dict[Any, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.device, parameter.dtype].append(parameter)
            for parameters in alike.values():
                self._update(group, parameters)
        return loss

    def _update(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        lr, momentum = float(group["lr"]), group["momentum"]
        momenta = [self._momentum(parameter) for parameter in parameters]
        gradient = torch.cat([p.grad.reshape(-1) for p in parameters if p.grad is not None])
        before = torch.cat([momentum.reshape(-1) for momentum in momenta])
        found_inf, grad_scale = getattr(self, "found_inf", None), getattr(self, "grad_scale", None)
        decay: Any = 1 - lr * group["weight_decay"]
        if grad_scale is not None:
            gradient = gradient / grad_scale
        if found_inf is not None:
            # A step that must not happen: its gradient is the momentum, which then stays as it is.
            gradient = torch.where(found_inf.bool(), before, gradient)
            decay = torch.where(found_inf.bool(), 1.0, decay)
        after = before.lerp(gradient, 1 - momentum)
        layout = self._layout(parameters, group["adjust_lr_fn"])
        torch._foreach_copy_(momenta, layout.split(after))
        direction = gradient.lerp(after, momentum) if group["nesterov"] else after
        update = layout.orthogonal(direction.to(self.dtype), group["ns_coefficients"], group["ns_steps"], group["eps"])
        if found_inf is not None:
            update = torch.where(found_inf.bool(), 0.0, update)
        torch._foreach_mul_(parameters, decay)
        torch._foreach_add_(parameters, layout.split(update.to(direction.dtype)), alpha=-lr)

    def _momentum(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]

    def _layout(self, parameters: list[Tensor], adjust: str | None) -> "_Layout":
        device, shapes = parameters[0].device, [parameter.shape for parameter in parameters]
        key = adjust, device, *shapes
        if key not in self._layouts:
            fill = device.type == "cuda" if self.fill is None else self.fill
            self._layouts[key] = _Layout(shapes, device, adjust, fill=fill)
        return self._layouts[key]


@dataclass(frozen=True)
class _Batch:
    """Matrices that are orthogonalised together.

    taken: (M R C) int64, places of the numbers in the flat tensor, P for a zero.
    scale: (M, 1, 1), factors of the learning rate, as torch sets them for the shapes.
    """

    taken: Tensor
    shape: tuple[int, int, int]
    scale: Tensor


class _Layout:
    """Where the numbers of a list of matrices, one after another in a flat tensor, are in the batches."""

    def __init__(self, shapes: list[torch.Size], device: torch.device, adjust: str | None, *, fill: bool) -> None:
        self.shapes = shapes
        self.sizes = [shape.numel() for shape in shapes]
        ends = list(accumulate(self.sizes))
        total = ends[-1]
        members: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, shape in enumerate(shapes):
            members[_size_in_batch(shape, fill=fill)].append(index)
        self.batches: list[_Batch] = []
        back = torch.empty(total, dtype=torch.int64)
        first = 0
        for (rows, columns), found in members.items():
            taken = torch.full((len(found), rows, columns), total)
            places = torch.arange(first, first + taken.numel()).view_as(taken)
            for number, index in enumerate(found):
                own = torch.arange(ends[index] - self.sizes[index], ends[index]).view(shapes[index])
                own = own.T if own.shape[0] > own.shape[1] else own
                taken[number, : own.shape[0], : own.shape[1]] = own
                back[own] = places[number, : own.shape[0], : own.shape[1]]
            first += taken.numel()
            scale = torch.tensor([_adjust_lr(1.0, adjust, shapes[index]) for index in found]).view(-1, 1, 1)
            self.batches.append(_Batch(taken.view(-1).to(device), (len(found), rows, columns), scale.to(device)))
        self._back = back.to(device)

    def split(self, flat: Tensor) -> list[Tensor]:
        return [part.view(shape) for part, shape in zip(flat.split(self.sizes), self.shapes, strict=True)]

    def orthogonal(self, flat: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
        """(P) -> (P): every matrix with singular values near 1, times its factor of the learning rate; in float32 if
        `flat` is in bf16."""
        with_zero = torch.nn.functional.pad(flat, (0, 1))
        found: list[Tensor] = []
        for batch in self.batches:
            x = newton_schulz(with_zero[batch.taken].view(batch.shape), coefficients, steps, eps)
            found.append((x * batch.scale).view(-1))
        return torch.cat(found)[self._back]


def _size_in_batch(shape: torch.Size, *, fill: bool) -> tuple[int, int]:
    """Rows and columns of the batch that takes a matrix of this shape, transposed if it is tall."""
    rows, columns = min(shape), max(shape)
    if not fill:
        return rows, columns
    return max(SMALLEST[0], 1 << (rows - 1).bit_length()), max(SMALLEST[1], 1 << (columns - 1).bit_length())


def newton_schulz(x: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """(M, R, C) -> (M, R, C) with singular values near 1, by the quintic iteration of Muon
    (kellerjordan.github.io/posts/muon)."""
    a, b, c = coefficients
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
