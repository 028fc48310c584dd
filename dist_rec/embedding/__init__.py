"""Embedding tables and their lookup. For TorchRec jobs of one's own: the deduplicated collections,
and embeddings of n-grams.

Names come when they are used: a model that is served reads a part of this package without TorchRec."""

from typing import TYPE_CHECKING

from dist_rec.common.lazy import lazily

if TYPE_CHECKING:
    from dist_rec.embedding.dedup_collection import DedupEmbeddingBagCollection as DedupEmbeddingBagCollection
    from dist_rec.embedding.dedup_collection import DedupEmbeddingCollection as DedupEmbeddingCollection
    from dist_rec.embedding.ngram import NgramEmbedding as NgramEmbedding
    from dist_rec.embedding.ngram import NgramIds as NgramIds

_HOMES = {
    "DedupEmbeddingBagCollection": "dist_rec.embedding.dedup_collection",
    "DedupEmbeddingCollection": "dist_rec.embedding.dedup_collection",
    "NgramEmbedding": "dist_rec.embedding.ngram",
    "NgramIds": "dist_rec.embedding.ngram",
}
__all__ = ["DedupEmbeddingBagCollection", "DedupEmbeddingCollection", "NgramEmbedding", "NgramIds"]

__getattr__ = lazily("dist_rec.embedding", _HOMES)
