"""What is between the training split and another: drift, what they share, and what is in the wrong order."""

from dataclasses import dataclass

import numpy as np

from dist_rec.data.columns import Ints
from dist_rec.data.survey.facts import SplitFacts

FREQUENT = 100  # values that are compared one by one; all others together
MUCH = 0.2  # a distance that is named


@dataclass(frozen=True)
class Between:
    """Training and one other split.

    - `drift` "<owner>.<field>", "length of <sequence>" -> total variation distance, from 0 to 1: the share of one split
      that would have to change to look like the other
    - `known_groups`, `known_candidates`: shares of the other's requests whose grouping key, and of its candidates
      whose first id, training has
    - `same`: requests of the other that are in training too, with all that they hold
    - `later`: requests of training at or after the other's first, None without times
    """

    split: str
    drift: dict[str, float]
    known_groups: float
    known_candidates: float
    same: int
    later: int | None


def between(train: SplitFacts, other: SplitFacts, first_id: str) -> Between:
    """`first_id`: the key in `counts` of the candidates' first id."""
    drift = {name: _distance(train.counts[name], of) for name, of in other.counts.items()}
    drift |= {f"length of {name}": _of_lengths(train.lengths[name], of) for name, of in other.lengths.items()}
    drift |= {name: _share_distance(train.numbers[name], of) for name, of in other.numbers.items()}
    drift |= {f"age of {name}": _share_distance(train.ages[name], of) for name, of in other.ages.items()}
    shown = other.counts[first_id]
    return Between(
        split=other.name,
        drift=dict(sorted(drift.items(), key=lambda of: -of[1])),
        known_groups=float(np.isin(other.groups, train.groups).mean()) if len(other.groups) else 0.0,
        known_candidates=float(shown[train.counts[first_id] > 0].sum() / max(1, shown.sum())),
        same=int(np.isin(other.hashes, train.hashes).sum()),
        later=int((train.time >= other.time.min()).sum()) if len(other.time) and len(train.time) else None,
    )


def repeated(facts: SplitFacts) -> int:
    """Requests that are equal to another one of the split in all that they hold."""
    return len(facts.hashes) - len(np.unique(facts.hashes))


def _distance(train: Ints, other: Ints) -> float:
    """Of the most frequent values one by one, and of the rest together: rare ones differ by chance."""
    frequent = np.argsort(train, kind="stable")[::-1][:FREQUENT]
    cut = [np.append(of[frequent], of.sum() - of[frequent].sum()) for of in (train, other)]
    return _share_distance(cut[0], cut[1])


def _of_lengths(train: Ints, other: Ints) -> float:
    buckets = [np.bincount(np.log2(of + 1.0).astype(np.int64), minlength=33) for of in (train, other)]
    return _share_distance(buckets[0], buckets[1])


def _share_distance(train: Ints, other: Ints) -> float:
    if not train.sum() or not other.sum():
        return 0.0
    return float(np.abs(train / train.sum() - other / other.sum()).sum() / 2)
