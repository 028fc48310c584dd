"""Embedding tables and their lookup. For TorchRec jobs of one's own: the deduplicated collections."""

from dist_rec.embedding.dedup_collection import DedupEmbeddingBagCollection, DedupEmbeddingCollection

__all__ = ["DedupEmbeddingBagCollection", "DedupEmbeddingCollection"]
