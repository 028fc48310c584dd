"""Requests from Parquet to deduplicated batches. For TorchRec jobs of one's own: `DedupLoader`, `apply_event_filter`
and `ngram_ids`. For datasets of one's own: `write_attributes`.

Names come when they are used: a recipe reads a part of this package without torch."""

from typing import TYPE_CHECKING

from dist_rec.common.lazy import lazily

if TYPE_CHECKING:
    from dist_rec.common.ngram import NgramSpec as NgramSpec
    from dist_rec.data.attribute_store import write_attributes as write_attributes
    from dist_rec.data.dedup_loader import DedupLoader as DedupLoader
    from dist_rec.data.filter.actions import Action as Action
    from dist_rec.data.filter.actions import Reason as Reason
    from dist_rec.data.filter.events import Events as Events
    from dist_rec.data.filter.features import apply_event_filter as apply_event_filter
    from dist_rec.data.filter.policy import FilterPolicy as FilterPolicy
    from dist_rec.data.ngram.features import ngram_ids as ngram_ids
    from dist_rec.data.unique_features import UniqueFeatures as UniqueFeatures

_HOMES = {
    "Action": "dist_rec.data.filter.actions",
    "DedupLoader": "dist_rec.data.dedup_loader",
    "Events": "dist_rec.data.filter.events",
    "FilterPolicy": "dist_rec.data.filter.policy",
    "NgramSpec": "dist_rec.common.ngram",
    "Reason": "dist_rec.data.filter.actions",
    "UniqueFeatures": "dist_rec.data.unique_features",
    "apply_event_filter": "dist_rec.data.filter.features",
    "ngram_ids": "dist_rec.data.ngram.features",
    "write_attributes": "dist_rec.data.attribute_store",
}
__all__ = [
    "Action",
    "DedupLoader",
    "Events",
    "FilterPolicy",
    "NgramSpec",
    "Reason",
    "UniqueFeatures",
    "apply_event_filter",
    "ngram_ids",
    "write_attributes",
]

__getattr__ = lazily("dist_rec.data", _HOMES)
