"""The GELU by the error function. On a CPU torch's own is a tenth of a step; on a GPU it is one kernel as any."""

from torch import Tensor
from torch.nn import functional

from dist_rec.kernels.common.backend import Backend, choose
from dist_rec.kernels.common.native import why_not_native
from dist_rec.kernels.common.traced import traceable
from dist_rec.kernels.gelu.native import native_gelu

__all__ = ["gelu"]

_WHY_NOT_TRITON = "torch's own is one kernel"


@traceable
def gelu(x: Tensor, *, backend: Backend = "auto") -> Tensor:
    """`x (1 + erf(x / sqrt 2)) / 2` (arXiv 1606.08415, equation 1).

    Args:
        x: any shape, float.
        backend: `native` is in C++ (fp32 on a CPU); `torch` and `reference` are torch's own; `auto` takes `native`
            where it can.

    Returns:
        Like x.

    Raises:
        ValueError: the backend that is asked for cannot take x.
    """
    chosen = choose("gelu", backend, x.device, _WHY_NOT_TRITON, native_obstacle=why_not_native(x))
    return native_gelu(x) if chosen == "native" else functional.gelu(x)
