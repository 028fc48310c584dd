"""Checks of the arguments of the deduplicated collections: the wrapped collection, and the features."""

import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn
from torchrec.distributed.types import ShardedModule
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.data.unique_features import UniqueFeatures, why_not

_WRAPPERS = {EmbeddingCollection: "DedupEmbeddingCollection", EmbeddingBagCollection: "DedupEmbeddingBagCollection"}


def check_collection(wrapper: str, collection: Any, expected: type[nn.Module]) -> None:
    """Raises TypeError for anything but an unsharded `expected` with TorchRec's own forward."""
    if isinstance(collection, expected) and type(collection).forward is expected.forward:
        return
    came = collection.__name__ + ", the class" if inspect.isclass(collection) else _article(type(collection).__name__)
    raise TypeError(
        f"{wrapper} expected {_article(expected.__name__)} of torchrec, got {came}{_advice(collection, expected)}"
    )


def _advice(collection: Any, expected: type[nn.Module]) -> str:
    inside = collection.modules() if isinstance(collection, nn.Module) else []
    kinds = {ShardedModule if isinstance(module, ShardedModule) else type(module) for module in inside}
    if inspect.isclass(collection):
        return "; make one of it first"
    for kind, wrapper in _WRAPPERS.items():
        if type(collection) is kind:
            return f"; {wrapper} is the one for it"
        if type(collection).__name__ == wrapper:
            return "; it is deduplicated already, wrap a collection once"
    if ShardedModule in kinds:
        return "; it is sharded already, wrap the collection first and give the model to DistributedModelParallel then"
    if isinstance(collection, expected):
        return "; it has a forward of its own, which deduplication would leave out: leave it as it is"
    if kinds & _WRAPPERS.keys():
        if type(collection).__module__.startswith("torchrec."):
            return "; it changes its features before it looks them up, leave it as it is"
        return "; wrap the collection inside"
    return "; other modules cannot be deduplicated, leave them as they are"


def check_features(wrapper: str, features: Any, keys: Sequence[str], *, on_device: bool) -> None:
    """Raises TypeError for features of another kind than the wrapper takes, ValueError for a missing key."""
    got = _article(type(features).__name__)
    is_unique = isinstance(features, UniqueFeatures)
    if on_device and not isinstance(features, KeyedJaggedTensor):
        hint = "; it is deduplicated already: use dedup='host', or leave DedupLoader out" if is_unique else ""
        raise TypeError(f"{wrapper} with dedup='device' expected a KeyedJaggedTensor, got {got}{hint}")
    if not on_device and not is_unique:
        raise TypeError(f"{wrapper} expected UniqueFeatures, got {got}{_way_out(features)}")
    there = features.keys()
    for key in keys:
        if key not in there:
            raise ValueError(f"{wrapper}: expected key {key!r} in the features; there are: {', '.join(there)}")


def _way_out(features: Any) -> str:
    if not isinstance(features, KeyedJaggedTensor):
        return "; give it what DedupLoader puts in the place of a KeyedJaggedTensor"
    if reason := why_not(features):
        return (
            f": these {reason}. DedupLoader leaves such features as they are; look them up in a collection that "
            "is not wrapped"
        )
    return (
        "; wrap the loader in DedupLoader and give it the features as they came in the batch, not what split, permute "
        "or concat made of them, or deduplicate on the device with dedup='device'"
    )


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"
