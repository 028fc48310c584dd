"""LONGER in two halves (arXiv 2505.04421, section 3.6.3): a sequence row never sees a global, so keys and values of
events and the rows that query are the same for all candidates.

Legend: B requests, M merged rows, q query rows of the sequence, C candidates, m global rows of one, D merged width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dist_rec.kernels.cross_causal_attention import Mask
from dist_rec.models.layers.attention_block import AttentionRows, CrossCausalBlock
from dist_rec.models.layers.jagged import CandidateView, GroupLayout, Jagged
from dist_rec.models.layers.placed_rows import picked_rows
from dist_rec.models.longer.query_rows import QueryRows


def encode_queries(
    blocks: Sequence[CrossCausalBlock], start: Tensor, events: Jagged, selected: QueryRows, *, rotary: bool, last: bool
) -> tuple[list[Jagged], Tensor | None]:
    """The query rows of sequences through all layers: keys and values (q, 2 D) that the layers after the first have of
    them, and with `last` their rows (q, D) after the last layer.

    Args:
        start: (q, D) rows before the first layer.
        events: keys and values (M, 2 D) of the merged rows in the first layer.
        rotary: whether rows are rotated by their places.
    """
    lengths, places = selected.lengths, selected.slot.float() if rotary else None
    positions = selected.position if selected.strategy != "recent" else None
    mask, longest = Mask(q_positions=positions), lengths.longest
    first, *others = blocks
    rows = AttentionRows(lengths.offsets, events.lengths.offsets, mask, longest, places, None)
    among = AttentionRows(lengths.offsets, lengths.offsets, Mask(), longest, places, None)
    state = first.attend(start, events.values, rows) if others or last else start
    found: list[Jagged] = []
    for number, block in enumerate(others):
        found.append(Jagged(block.key_values(state, places), lengths))
        if last or number + 1 < len(others):
            state = block.attend(state, found[-1].values, among)
    return found, state if last else None


def score_groups(
    blocks: Sequence[CrossCausalBlock],
    keys: Sequence[Jagged],
    groups: Tensor,
    m: int,
    view: CandidateView,
    rotary: Tensor | None,
) -> Tensor:
    """The global rows (C * m, D) of every candidate through all layers; `keys` of the sequence in each of them, and
    `rotary` (C * m,) the place of each row."""
    own = view.counts.times(m)
    # One candidate per request: then the plain causal mask suffices.
    counts = None if view.counts.longest <= 1 else view.counts.tensor
    mask = Mask(num_candidates=counts, group_size=m)
    for block, sequence in zip(blocks, keys, strict=True):
        layout = GroupLayout.of(sequence.lengths, view.counts, m)
        everything = layout.join(sequence.values, block.key_values(groups, rotary))
        rows = AttentionRows(own.offsets, layout.lengths.offsets, mask, own.longest, rotary, None)
        groups = block.attend(groups, everything, rows)
    return groups


def first_rows(merged: Tensor, selected: QueryRows, learned: Tensor | None) -> Tensor:
    """(q, D) before the first layer: merged rows, or learned ones for every request."""
    if learned is None:
        return picked_rows(merged, selected.index)
    return learned.to(merged.dtype).repeat(len(selected.of), 1) if len(selected.of) else torch.empty_like(merged[:0])
