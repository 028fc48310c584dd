"""A step of a torch optimizer that happens or not by a flag on the device, which the host never reads."""

from typing import Any

import torch
from torch import Tensor

CAPTURABLE = ("cuda",)  # devices on which torch's optimizers may count their steps


@torch.no_grad()
def step_if(optimizer: torch.optim.Optimizer, flag: Tensor) -> None:
    """`optimizer.step()` where `flag` () bool is true; otherwise parameters and state on its device stay as they were.

    Optimizers that take torch's own flag for gradient scaling (fused Adam and AdamW) do so in their kernel. For others
    the values from before are kept beside the new ones and chosen afterwards. Torch's optimizers count their steps on
    the host unless they are `capturable`, which is set here; a counter of one that has no such option goes on.

    Memory: nothing for the former; for the others, during the step, a copy of parameters and state.
    """
    # A state of another form may have been loaded, which takes the fused form away.
    fused = all(group.get("fused") for group in optimizer.param_groups)
    if fused and getattr(optimizer, "_step_supports_amp_scaling", False):
        with_flag: Any = optimizer
        with_flag.grad_scale, with_flag.found_inf = None, (~flag).float()
        try:
            optimizer.step()
        finally:
            del with_flag.grad_scale, with_flag.found_inf
        return
    _count_on(optimizer, flag.device)
    before = {key: tensor.clone() for key, tensor in _tensors(optimizer, flag.device).items()}
    optimizer.step()
    for key, tensor in _tensors(optimizer, flag.device).items():
        # State that the step has made starts from zeros, as it would after a first step that counts.
        old = before.get(key)
        tensor.copy_(torch.where(flag, tensor, torch.zeros_like(tensor) if old is None else old))


def _count_on(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Puts the step counters on the device, where the flag is."""
    if device.type not in CAPTURABLE:
        return
    for group in optimizer.param_groups:
        if "capturable" not in group:
            continue
        group["capturable"] = True
        for parameter in group["params"]:
            state = optimizer.state.get(parameter, {})
            step = state.get("step")
            if isinstance(step, Tensor) and step.device != device:  # also one that was loaded since
                state["step"] = step.to(device)


def _tensors(optimizer: torch.optim.Optimizer, device: torch.device) -> dict[tuple[int, str], Tensor]:
    """Parameters with a gradient and their state on the device, by parameter and name."""
    found: dict[tuple[int, str], Tensor] = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is None:
                continue
            found[id(p), ""] = p
            for name, value in optimizer.state.get(p, {}).items():
                if isinstance(value, Tensor) and value.device == device:
                    found[id(p), name] = value
    return found
