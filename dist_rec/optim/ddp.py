"""What DistributedDataParallel has to do with a model: which parts it reduces, and how it is kept from it."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.debugging_hooks import noop_hook
from torch.nn.parallel import DistributedDataParallel


def outermost_ddps(dmp: nn.Module) -> list[DistributedDataParallel]:
    """The model or what it wraps directly; DDP further down belongs to data-parallel tables."""
    return [module for module in (dmp, *dmp.children()) if isinstance(module, DistributedDataParallel)]


def slices(parameters: Mapping[str, Tensor]) -> list[str]:
    """Names of parameters that are parts of a larger one: TorchRec's data-parallel tables. A DDP of their own, which is no
    submodule, reduces that one; hooks on a slice never run."""
    return [name for name, parameter in parameters.items() if not parameter.is_leaf]


def silence(ddp: DistributedDataParallel) -> None:
    """Gradients stay those of this rank. Cannot be undone.

    Raises:
        ValueError: if DDP has a communication hook already.
    """
    try:
        ddp.register_comm_hook(None, noop_hook)
    except RuntimeError as error:
        raise ValueError("delayed: the model's DDP has a communication hook already; expected none") from error


def plain_buffers(dmp: nn.Module) -> dict[str, Tensor]:
    """Buffers of all modules but TorchRec's sharded ones (those with an input dist), which differ between ranks."""
    sharded = [name for name, module in dmp.named_modules() if hasattr(module, "input_dist")]
    return {name: b for name, b in dmp.named_buffers() if not any(name.startswith(f"{prefix}.") for prefix in sharded)}
