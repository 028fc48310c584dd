"""Ids of n-grams over the features of any TorchRec job: one key of a `KeyedJaggedTensor` in, one of n-grams out.

Legend: B samples, N events, M sub-tables.
"""

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.common.ngram import NgramSpec
from dist_rec.kernels.ngram_ids import ngram_ids as hash_events


def ngram_ids(
    features: KeyedJaggedTensor,
    key: str,
    spec: NgramSpec,
    *,
    name: str = "ngram",
    hidden: int | None = None,
    times: str | None = None,
    heads: Tensor | None = None,
) -> KeyedJaggedTensor:
    """The n-grams of the events under one key, hashed on the device of the features.

    Args:
        features: with one stride for all keys; samples are sequences, oldest event first, of ids from 0 on.
        key: whose values are the ids of the events.
        spec: the n-grams.
        name: the key of the result.
        hidden: the id of events that n-grams stop at; None: there are none.
        times: the key whose values are the seconds of the events; needed for `gap_seconds`.
        heads: `spec.head_numbers()` as (M, 4 + longest) int64 on the device; made anew if not given.

    Returns:
        Stride B, with one key of M ids per event (N M values, int64, the ids of one event side by side): rows of a
        table of `spec.total_rows`. An `EmbeddingCollection` of width D / M gives (N M, D / M), which is (N, D) as it
        lies in memory.

    Raises:
        ValueError: an unknown key, another number of times than events, or no times for `gap_seconds`.
    """
    for of in (key, times):
        if of is not None and of not in features.keys():  # noqa: SIM118
            raise ValueError(f"no key {of!r} in the features; there are: {', '.join(features.keys())}")
    if spec.gap_seconds is not None and times is None:
        raise ValueError(f"gap_seconds={spec.gap_seconds} needs the times of the events: name their key as `times`")
    events = features[key]
    if heads is None:
        heads = torch.tensor(spec.head_numbers(), device=events.values().device)
    ids = hash_events(
        events.values().long(),
        events.offsets(),
        heads,
        polynomial=spec.hash == "polynomial",
        hidden=hidden,
        times=None if times is None or spec.gap_seconds is None else features[times].values(),
        gap=spec.gap_seconds or 0,
    )
    return KeyedJaggedTensor(
        keys=[name],
        values=ids.flatten(),
        lengths=events.lengths() * spec.tables,
        stride=features.stride(),
        length_per_key=[ids.numel()],
    )
