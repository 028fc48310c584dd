"""Filtering of events for a TorchRec job of one's own: actions per event, KeyedJaggedTensors in and out.

Legend: N events of all samples, M of them that are left.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.data.filter.actions import Action


@dataclass(frozen=True)
class FilteredFeatures:
    """- `features`: the features with events hidden and dropped; keys that are no field of the events as they were
    - `index` (M,) int64: which of the N events are left, for what lies beside the features, such as times
    - `key_valid` (M,) bool: False for a key-masked event, which attention should not see; its slot is there
    - `target_weight` (M,) float32: 0 for an event that is no target of a loss, else 1. Divide the loss by the sum of
      the weights over all ranks
    """

    features: KeyedJaggedTensor
    index: Tensor
    key_valid: Tensor
    target_weight: Tensor


def apply_event_filter(
    features: KeyedJaggedTensor, actions: Tensor, hidden: Mapping[str, int], others: Collection[str] = ()
) -> FilteredFeatures:
    """The features of a batch after a decision about every event.

    Call it before ids are hashed, deduplicated or copied: the ids of hidden, key-masked and dropped events are not in
    the result, so their rows are neither read nor trained.

    Args:
        features: without weights. The keys in `hidden` are the fields of one sequence, all of the same lengths.
        actions: (N,) integer, an `Action` for each event of the sequence.
        hidden: every per-event field -> the id of its row HIDDEN, one that no event has, such as the table's last.
        others: the other keys, which stay as they are: context, candidates, other sequences.

    Raises:
        ValueError: keys that are not there or in neither of the two, lengths that differ, weights, or actions of
            another shape or value.
    """
    keys, parts = list(hidden), features.to_dict()
    if not keys or any(key not in parts for key in keys):
        raise ValueError(f"hidden: expected fields of the events among {features.keys()}, got {keys}")
    if set(parts) != {*keys, *others} or set(keys) & set(others):
        raise ValueError(
            f"expected each of {features.keys()} either in hidden or in others, got {keys} and {sorted(others)}; a "
            "field of the events that is not filtered would no longer fit them"
        )
    if features.weights_or_none() is not None:
        raise ValueError("features: expected none with weights, got weights per id")
    lengths = parts[keys[0]].lengths()
    for key in keys[1:]:
        if not torch.equal(parts[key].lengths(), lengths):
            raise ValueError(f"fields of one sequence must have the same lengths, {key} and {keys[0]} differ")
    count = len(parts[keys[0]].values())
    if actions.shape != (count,) or actions.is_floating_point():
        raise ValueError(f"actions: expected ({count},) integers, got {tuple(actions.shape)} {actions.dtype}")
    if count and not 0 <= int(actions.min()) <= int(actions.max()) <= max(Action):
        raise ValueError(f"actions: expected {min(Action)} to {max(Action)}, got others")
    index = torch.nonzero(actions != Action.DROP)[:, 0]
    left = actions[index]
    taken = (left == Action.HIDE) | (left == Action.KEYMASK)
    sample = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
    kept = torch.bincount(sample[index], minlength=len(lengths)).to(lengths.dtype)
    values, new_lengths = [], []
    for key, part in parts.items():
        whole = part.values()
        values.append(whole[index].masked_fill(taken, hidden[key]) if key in hidden else whole)
        new_lengths.append(kept if key in hidden else part.lengths())
    return FilteredFeatures(
        KeyedJaggedTensor(keys=features.keys(), values=torch.cat(values), lengths=torch.cat(new_lengths)),
        index,
        left != Action.KEYMASK,
        (left == Action.KEEP).float(),
    )
