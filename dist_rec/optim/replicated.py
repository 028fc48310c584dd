"""TorchRec's data-parallel tables among the dense parameters: slices of a flat parameter, which alone gets a gradient.

TorchRec reduces them in a DDP of its own, unless `mark_data_parallel_skip_grad_sync` marked their collection before it
was sharded (TorchRec 1.9 and later).
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dist_rec.optim.placeholder import Placeholder


def reduced_by_torchrec(model: nn.Module, parameters: Mapping[str, nn.Parameter]) -> list[str]:
    """Names of the parameters whose gradients TorchRec reduces. Its DDP is in a list of the sharded module and is no
    submodule."""
    reduced = {
        id(parameter)
        for module in model.modules()
        if any(isinstance(lookup, DistributedDataParallel) for lookup in getattr(module, "_lookups", ()))
        for parameter in module.parameters()
        if not parameter.is_leaf
    }
    return [name for name, parameter in parameters.items() if id(parameter) in reduced]


def check_own(reduced: list[str]) -> None:
    """Raises ValueError if TorchRec reduces the gradients of some parameters, which nothing can switch off."""
    if reduced:
        raise ValueError(
            f"{reduced[0]}: TorchRec reduces data_parallel tables in a separate DDP, synchronously; expected their "
            "collection to be marked by torchrec.modules.embedding_modules.mark_data_parallel_skip_grad_sync before it "
            "is sharded (TorchRec 1.9 and later), dense_update='sync' with init_data_parallel=True, or another sharding"
        )


def by_flat(parameters: Mapping[str, nn.Parameter]) -> list[tuple[nn.Parameter, list[str]]]:
    """Every flat parameter with the names of its slices among `parameters`."""
    found: dict[int, tuple[nn.Parameter, list[str]]] = {}
    for name, parameter in parameters.items():
        if not parameter.is_leaf:
            flat = cast(Any, parameter)._original_tensor
            found.setdefault(id(flat), (flat, []))[1].append(name)
    return list(found.values())


@torch.no_grad()
def hand_out(flat: Tensor, slices: Iterable[nn.Parameter]) -> None:
    """Moves the gradient of a flat parameter into `p.grad` of its slices, where what an earlier backward left is added.

    A slice has a `p.grad` of its own only while the flat parameter has none."""
    gradient, flat.grad = flat.grad, None
    assert gradient is not None, "autograd has just put it there"
    for of in slices:
        place = cast(Any, of)
        new = gradient[place._start_offset : place._end_offset].view(of.shape)
        old = of.grad
        of.grad = new if old is None or isinstance(old, Placeholder) else old + new
