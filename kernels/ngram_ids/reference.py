"""The definition in plain Python, whose integers have no width.

Legend: N events, M heads.
"""

from itertools import pairwise

import torch
from torch import Tensor

WORD = 2**64 - 1


def mix(x: int) -> int:
    """The finalizer of splitmix64, of 64 bits without sign."""
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & WORD
    x = (x ^ x >> 27) * 0x94D049BB133111EB & WORD
    return x ^ x >> 31


def row_of(tokens: list[int], head: list[int], polynomial: bool) -> int:
    """The row in the fused table of an n-gram, newest token first; `head` as the operator has it."""
    order, rows, first, key, *powers = head
    if polynomial:
        base = powers[1] if len(powers) > 1 else 1
        return first + sum(token * base**j for j, token in enumerate(tokens[:order])) % rows
    state = key & WORD
    for token in tokens[:order]:
        state = mix(state ^ token)
    return first + ((state >> 32) * rows >> 32)


def tokens_of(
    values: list[int], i: int, longest: int, hidden: int | None, times: list[int] | None, gap: int
) -> list[int]:
    """Token i of one sequence and those before it, newest first; 0 from where looking back stops."""
    found = [values[i] + 1]
    for j in range(i - 1, max(i - longest, -1), -1):
        if hidden in (values[j + 1], values[j]) or (times is not None and abs(times[j + 1] - times[j]) > gap):
            break
        found.append(values[j] + 1)
    return found + [0] * (longest - len(found))


def reference_ngram_ids(
    values: Tensor,
    offsets: Tensor,
    heads: Tensor,
    polynomial: bool,
    hidden: int | None,
    times: Tensor | None,
    gap: int,
) -> Tensor:
    """(N, M) int64"""
    table, bounds, longest = heads.tolist(), offsets.tolist(), heads.shape[1] - 4
    rows: list[list[int]] = []
    for begin, end in pairwise(bounds):
        of_sequence = values[begin:end].tolist()
        moments = None if times is None else times[begin:end].tolist()
        for i in range(len(of_sequence)):
            tokens = tokens_of(of_sequence, i, longest, hidden, moments, gap)
            rows.append([row_of(tokens, head, polynomial) for head in table])
    return torch.tensor(rows, dtype=torch.int64, device=values.device).view(len(values), len(table))
