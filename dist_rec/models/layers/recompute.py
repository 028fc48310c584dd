"""Activation recompute of a part of a model: what `model.recompute` names is dropped in the forward and made again."""

from typing import Any

import torch
from torch.utils.checkpoint import checkpoint


def run(function: Any, *inputs: Any, again: bool) -> Any:
    """`function(*inputs)`; with `again`, its activations are recomputed in the backward instead of kept."""
    if again and torch.is_grad_enabled():
        return checkpoint(function, *inputs, use_reentrant=False)
    return function(*inputs)
