"""Unpacking as PyTorch sees it: a custom op with a fake form, and the launch behind it."""

# Triton turns numbers into constants by itself, hence for launches:
# pyright: reportArgumentType=false

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

from dist_rec.kernels.unique_ids.bits import unpack_kernel

BLOCK = 1024


@torch.library.custom_op("dist_rec::unpack_index", mutates_args=())
def unpack_words(words: Tensor, bits: int, length: int) -> Tensor:
    """(length,) int32."""
    index = torch.empty(length, dtype=torch.int32, device=words.device)
    if length:
        with on(words.device):
            unpack_kernel[(triton.cdiv(length, BLOCK),)](words, index, bits, length, BLOCK=BLOCK)
    return index


@unpack_words.register_fake
def _(words: Tensor, bits: int, length: int) -> Tensor:
    return words.new_empty(length)


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be that of the inputs."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
