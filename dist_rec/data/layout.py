"""Ids that are deduplicated and looked up together. Does not import torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FeatureSet:
    """Keys with the same lengths in every sample; distinct combinations of their ids are the tokens of a batch."""

    name: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """The ids in a batch of a schema.

    - `owners` owner of ids -> its feature set: "context" (if there are context fields), every sequence, "candidate".
      Sequences and candidates with the same fields share a set, named after the first of them; context has its own
    - `feature_sets` by name, in the order of their first owners
    - `tables` key -> its table, `sizes` key -> rows of that table; keys are "<feature set>.<field>", set after set
    """

    owners: dict[str, FeatureSet]
    feature_sets: dict[str, FeatureSet]
    tables: dict[str, str]
    sizes: dict[str, int]
