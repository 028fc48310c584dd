"""Requests from Parquet to deduplicated batches. For TorchRec jobs of one's own: `DedupLoader`.

Names come when they are used: a recipe reads a part of this package without torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dist_rec.data.dedup_loader import DedupLoader as DedupLoader
    from dist_rec.data.unique_features import UniqueFeatures as UniqueFeatures

_HOMES = {"DedupLoader": "dist_rec.data.dedup_loader", "UniqueFeatures": "dist_rec.data.unique_features"}
__all__ = ["DedupLoader", "UniqueFeatures"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dist_rec.data' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
