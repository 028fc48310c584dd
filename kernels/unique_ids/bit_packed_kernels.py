"""Triton kernels that read a bit-packed index (`bit_packed.py` has the layout)."""

# Triton reads annotations as code and turns numbers into constants by itself, hence for kernels:
# pyright: reportMissingParameterType=false, reportArgumentType=false

import triton
import triton.language as tl


@triton.jit
def read_index(WORDS, position, there, bits):
    """Elements at `position` (int64, any shape) of a bit-packed index, as int32; 0 where not `there`.

    The second word is read for an element in two words. A plain int32 index has 32 bits, an element per word.
    """
    bit = position.to(tl.int64) * bits
    word = bit >> 5
    shift = (bit & 31).to(tl.uint32)
    both = there & (shift + bits > 32)
    low = tl.load(WORDS + word, mask=there, other=0).to(tl.uint32, bitcast=True) >> shift
    high = tl.load(WORDS + word + 1, mask=both, other=0).to(tl.uint32, bitcast=True)
    value = low | tl.where(both, high << ((32 - shift) & 31), 0)
    kept = tl.full((), 0xFFFFFFFF, tl.uint32) >> (32 - bits).to(tl.uint32)
    return (value & kept).to(tl.int32, bitcast=True)


@triton.jit(do_not_specialize=["bits", "length"])
def unpack_kernel(WORDS, OUT, bits, length, BLOCK: tl.constexpr) -> None:
    position = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = position < length
    tl.store(OUT + position, read_index(WORDS, position, there, bits), mask=there)
