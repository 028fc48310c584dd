"""Unpacking in PyTorch: a custom op with a fake form, and the launch behind it."""

# Triton turns numbers into constants by itself, hence for launches:
# pyright: reportArgumentType=false

import torch
from torch import Tensor

from dist_rec.kernels.common.backend import on
from dist_rec.kernels.common.eager import is_eager
from dist_rec.kernels.common.launch import cdiv, launch
from dist_rec.kernels.unique_ids.bit_packed_kernels import unpack_kernel

BLOCK = 1024


def triton_unpack(words: Tensor, bits: int, length: int) -> Tensor:
    return (_unpack if is_eager(words) else unpack_words)(words, bits, length)


def _unpack(words: Tensor, bits: int, length: int) -> Tensor:
    """(length,) int32, the elements of a bit-packed index."""
    index = torch.empty(length, dtype=torch.int32, device=words.device)
    if length:
        with on(words.device):
            grid = (cdiv(length, BLOCK),)
            launch(unpack_kernel, grid, WORDS=words, OUT=index, bits=bits, length=length, BLOCK=BLOCK)
    return index


unpack_words = torch.library.custom_op("dist_rec::unpack_index", _unpack, mutates_args=())


@unpack_words.register_fake
def _(words: Tensor, bits: int, length: int) -> Tensor:
    return words.new_empty(length)
