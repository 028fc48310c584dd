"""Ids that are deduplicated and looked up together. Does not import torch."""

from dataclasses import dataclass, field

from dist_rec.common.ngram import NgramSpec


@dataclass(frozen=True)
class FeatureSet:
    """Keys with the same lengths in every sample; distinct combinations of their ids are the tokens of a batch."""

    name: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class FieldNgrams:
    """N-grams of one field of a sequence.

    - `sequence`, `field` and `place`: whose ids they are, and the place of the field among the ids of the sequence
    - `key`: of the field's ids, in the feature set of the sequence
    - `base`: the field's table; `table`: their own, of `spec.total_rows` rows
    - `hidden`: the id of hidden events, or None
    - `candidate_place`: of the field among the ids of the candidates, if these have n-grams as well
    """

    sequence: str
    field: str
    place: int
    key: str
    base: str
    table: str
    spec: NgramSpec
    hidden: int | None
    candidate_place: int | None = None


@dataclass(frozen=True)
class Layout:
    """The ids in a batch of a schema.

    - `owners` owner of ids -> its feature set: "context" (if there are context fields), every sequence, "candidate".
      Sequences and candidates with the same fields share a set, named after the first of them; context has its own.
      Then every "context.<list>" and "candidate.<list>", whose elements are those of all lists, one after the other.
      Then every "<key>.<attribute>" of a list that belongs to ids: its elements are those of all distinct ids of the
      key, one list after the other; each has a set of its own with one key of its name.
      Then every "<sequence>.<field>.ngram", which has as many ids per event as there are sub-tables, and the same with
      ".candidate" behind for candidates; each has a set of its own with one key of its name
    - `feature_sets` by name, in the order of their first owners
    - `tables` key -> its table, `sizes` key -> rows of that table; keys are "<feature set>.<field>", set after set
    - `ngrams` owner -> what they are n-grams of; `candidate_ngrams` those of candidates
    - `attribute_lists` owner -> the key and the attribute; `id_lists` owners that are lists of requests or candidates
    """

    owners: dict[str, FeatureSet]
    feature_sets: dict[str, FeatureSet]
    tables: dict[str, str]
    sizes: dict[str, int]
    ngrams: dict[str, FieldNgrams] = field(default_factory=dict)
    candidate_ngrams: dict[str, FieldNgrams] = field(default_factory=dict)
    attribute_lists: dict[str, tuple[str, str]] = field(default_factory=dict)
    id_lists: tuple[str, ...] = ()
