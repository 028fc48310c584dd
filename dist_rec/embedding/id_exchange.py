"""Distinct ids of a rank on their way to the ranks that own them, and the answers back.

Legend: n ids of this rank, m ids that this rank owns, of all ranks.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor


def ask_owners(ids: Tensor, owners: Tensor, ranks: int, answer: Callable[[Tensor], Tensor]) -> Tensor:
    """(n,) int64: for each of ids (n,) int64 what `answer` says of it on its owner (n,).

    `answer` gets ids (m,), distinct and ascending, also where there are none, and gives (m,) int64. Every rank calls
    it. Comm with more than one rank: three all-to-alls over the default group, of numbers, of ids and of answers; the
    host waits for the numbers."""
    if ranks == 1:
        return _distinct(ids, answer)
    order = owners.argsort(stable=True)
    sent = torch.bincount(owners, minlength=ranks)
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    to_each, of_each = sent.tolist(), received.tolist()  # Host sync: the shapes of what is exchanged.
    asked = ids.new_empty(sum(of_each))
    dist.all_to_all_single(asked, ids[order], of_each, to_each)
    found = ids.new_empty(len(ids))
    dist.all_to_all_single(found, _distinct(asked, answer), to_each, of_each)
    answers = torch.empty_like(found)
    answers[order] = found
    return answers


def _distinct(ids: Tensor, answer: Callable[[Tensor], Tensor]) -> Tensor:
    """Several ranks may ask for the same id."""
    distinct, inverse = torch.unique(ids, return_inverse=True)
    return answer(distinct)[inverse]
