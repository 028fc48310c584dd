"""Requests from Parquet to deduplicated batches. For TorchRec jobs of one's own: `DedupLoader`."""

from dist_rec.data.dedup_loader import DedupLoader
from dist_rec.data.unique_features import UniqueFeatures

__all__ = ["DedupLoader", "UniqueFeatures"]
