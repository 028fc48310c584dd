"""Checks that the optimizer can update a model: every rank holds its dense parameters whole, and none thaws
unnoticed."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor


def check_whole(parameters: Mapping[str, Tensor]) -> None:
    """Raises ValueError for a parameter that is sharded over the ranks."""
    for name, parameter in parameters.items():
        if isinstance(parameter, DTensor):
            raise ValueError(
                f"{name} is a DTensor, spread over ranks by fully_shard (FSDP) or tensor parallelism, which reduce its "
                "gradient themselves; expected dense parameters that every rank holds whole, as in plain or DDP modules"
            )


def check_modules(model: nn.Module) -> None:
    """Raises ValueError for a module that reduces gradients in a way that its parameters do not show."""
    for name, module in model.named_modules():
        if isinstance(module, FullyShardedDataParallel):
            raise ValueError(
                f"{name or 'the model'} is a FullyShardedDataParallel (FSDP), which spreads parameters over ranks and "
                "reduces their gradients itself; expected dense parameters that every rank holds whole, as in plain or "
                "DDP modules"
            )


def check_frozen(parameters: Mapping[str, Tensor]) -> None:
    """Raises RuntimeError if a parameter that was frozen when the optimizer was made requires a gradient now."""
    if thawed := [name for name, p in parameters.items() if p.requires_grad]:
        raise RuntimeError(
            f"{thawed[0]} ({len(thawed)} parameters) was frozen when this optimizer was made and requires a gradient "
            "now, but no optimizer updates it; expected add_parameters({name: parameter}) first, or requires_grad "
            "before the optimizer is made"
        )
