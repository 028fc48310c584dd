"""Unpacking in PyTorch: a custom op with a fake form, and the launch behind it."""

# Triton turns numbers into constants by itself, hence for launches:
# pyright: reportArgumentType=false

import torch
import triton
from torch import Tensor

from dist_rec.kernels.common.backend import on
from dist_rec.kernels.unique_ids.bit_packed_kernels import unpack_kernel

BLOCK = 1024


@torch.library.custom_op("dist_rec::unpack_index", mutates_args=())
def unpack_words(words: Tensor, bits: int, length: int) -> Tensor:
    """(length,) int32, the elements of a bit-packed index."""
    index = torch.empty(length, dtype=torch.int32, device=words.device)
    if length:
        with on(words.device):
            unpack_kernel[(triton.cdiv(length, BLOCK),)](words, index, bits, length, BLOCK=BLOCK)
    return index


@unpack_words.register_fake
def _(words: Tensor, bits: int, length: int) -> Tensor:
    return words.new_empty(length)
