"""Requests from Parquet to deduplicated batches. For TorchRec jobs of one's own: `DedupLoader`,
and `ngram_ids`."""

from dist_rec.common.ngram import NgramSpec
from dist_rec.data.dedup_loader import DedupLoader
from dist_rec.data.ngram.features import ngram_ids
from dist_rec.data.unique_features import UniqueFeatures

__all__ = ["DedupLoader", "NgramSpec", "UniqueFeatures", "ngram_ids"]
