"""DistributedDataParallel in a model: which parts it reduces, and how its all-reduce is switched off."""

from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.debugging_hooks import noop_hook
from torch.nn.parallel import DistributedDataParallel


def outermost_ddps(dmp: nn.Module) -> list[DistributedDataParallel]:
    """DDP modules among the model and its children. DDP modules further down belong to data-parallel tables."""
    return [module for module in (dmp, *dmp.children()) if isinstance(module, DistributedDataParallel)]


def silence(ddp: DistributedDataParallel) -> None:
    """Makes every rank keep its own gradients. Cannot be undone.

    Raises:
        ValueError: if DDP already has a communication hook.
    """
    try:
        ddp.register_comm_hook(None, noop_hook)
    except RuntimeError as error:
        raise ValueError("delayed: the model's DDP has a communication hook already; expected none") from error


def plain_buffers(dmp: nn.Module) -> dict[str, Tensor]:
    """Buffers by name, without those of TorchRec's sharded modules (the ones with an input dist), which differ between
    ranks."""
    sharded = [name for name, module in dmp.named_modules() if hasattr(module, "input_dist")]
    return {name: b for name, b in dmp.named_buffers() if not any(name.startswith(f"{prefix}.") for prefix in sharded)}
