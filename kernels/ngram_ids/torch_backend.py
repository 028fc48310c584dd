"""Plain PyTorch: passes over (N, M). torch has no unsigned 64-bit arithmetic, so shifts are masked.

Legend: N events, M heads.
"""

import torch
from torch import Tensor

from dist_rec.kernels.jagged_range import jagged_range

# The multipliers of splitmix64's finalizer as signed numbers.
FIRST_FACTOR = 0xBF58476D1CE4E5B9 - 2**64
SECOND_FACTOR = 0x94D049BB133111EB - 2**64


def torch_ngram_ids(
    values: Tensor,
    offsets: Tensor,
    heads: Tensor,
    polynomial: bool,
    hidden: int | None,
    times: Tensor | None,
    gap: int,
) -> Tensor:
    """(N, M) int64"""
    if len(values) == 0:
        return values.new_empty(0, len(heads))
    order, rows, first, key, *powers = heads.unbind(1)
    state = torch.zeros_like(rows) if polynomial else key
    state = state.expand(len(values), len(heads))
    for j, token in enumerate(_tokens(values, offsets, len(powers), hidden, times, gap)):
        if polynomial:  # powers of tokens that are too old for a head are 0
            state = (state + token[:, None] % rows * powers[j]) % rows
        else:
            state = torch.where(order > j, _mix(state ^ token[:, None]), state)
    return first + (state if polynomial else _shifted(state, 32) * rows >> 32)


def _tokens(
    values: Tensor, offsets: Tensor, longest: int, hidden: int | None, times: Tensor | None, gap: int
) -> list[Tensor]:
    """(N,) tokens of every event, of the one before it, and so on."""
    begin = jagged_range(offsets[:-1], offsets, len(values), step=0)
    place = torch.arange(len(values), device=values.device)
    joined = place > begin  # to the event before
    if hidden is not None:
        shown = values != hidden
        joined[1:] &= shown[1:] & shown[:-1]
    if times is not None:
        joined[1:] &= times.long().diff().abs() <= gap
    found, reaches = [values + 1], torch.ones_like(joined)
    for j in range(1, longest):
        reaches = reaches & joined
        before = torch.zeros_like(values)
        before[j:] = values[:-j] + 1 if j < len(values) else 0
        found.append(torch.where(reaches, before, 0))
        joined = torch.nn.functional.pad(joined[:-1], (1, 0))
    return found


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shifted(x, 30)) * FIRST_FACTOR
    x = (x ^ _shifted(x, 27)) * SECOND_FACTOR
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """As if without sign."""
    return x >> bits & (1 << 64 - bits) - 1
