"""Tensors by parameter name of which some may be missing, in a state dict that has the same keys at any time."""

from collections.abc import Mapping

import torch
from torch import Tensor


def filled(values: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Copies, since the values may be worked on in place before the state is written; zeros for what is missing, and by name
    whether it is there."""
    return {
        name: {
            "value": values[name].clone() if name in values else torch.zeros_like(tensor.detach()),
            "there": torch.tensor(name in values),
        }
        for name, tensor in like.items()
    }


def present(saved: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Copies of the values that were there."""
    return {name: entry["value"].clone() for name, entry in saved.items() if entry["there"]}
