"""Embedding tables and their lookup. For TorchRec jobs of one's own: the deduplicated collections,
and embeddings of n-grams."""

from dist_rec.embedding.dedup_collection import DedupEmbeddingBagCollection, DedupEmbeddingCollection
from dist_rec.embedding.ngram import NgramEmbedding, NgramIds

__all__ = ["DedupEmbeddingBagCollection", "DedupEmbeddingCollection", "NgramEmbedding", "NgramIds"]
