"""The schema of a dataset: the columns of a request and the embedding table of each id.

It is `schema.yaml` beside the Parquet files. A row of a file is one **request**: context, behaviour sequences (oldest
event first), and one or more candidates with their labels. Columns:

- `<field>`: context field, int; of a table of open ids any 64 bits, signed or not
- `<grouping key>`, named under `request`: int, any 64 bits, signed or not, such as a hash
- `<time>`, named under `request`: int seconds or a timestamp
- `<sequence>.<field>`: list of int, one entry per event, for every field of `ids` and `side`
- `<sequence>.time`: list of int seconds or of timestamps, if the sequence has `time: true`
- `<sequence>.user`, `<sequence>.events`: int, in the place of its lists if the sequence has `once: true`
- `<owner>.score`, `<owner>.reason` of a sequence or of `candidate`, if it has `score: true` or `reason: true`: what a
  filter of events decides by (data/filter)
- `candidate.<field>`: list of int, one entry per candidate
- `<number>`, `<sequence>.<number>`, `candidate.<number>`: a number, or a list of numbers, for every one of `numbers` of
  the request, of a sequence and of candidates; null or NaN where it is missing
- `<list>`, `candidate.<list>`: a list of int, or a list of them, for every one of `lists` of the request and of
  candidates
- `candidate.<label>`: list of 0/1; either value where `given` leaves the label undefined
- `candidate.visible_events`: list of int, if `visible_events: true`: number of the oldest events that a candidate sees
- `candidate.<label>.oracle`: list of float, if `oracle: true`: the true probability of the label, given its condition
- `candidate.<label>.delay`: list of int seconds, of a label with a horizon; or `candidate.<label>.matured`: list of 0/1
- `candidate.feedback_events`: list of int, if there is `feedback`: how many feedback events each candidate has, 0 where
  nothing happened and -1 where nobody knows
- `feedback.<field>`: list of int, one entry per feedback event, candidate after candidate; `feedback.time` as above

Int is any integer type of Parquet, list any of its list types. files.py picks the files of a folder. older_words.py
reads schemas and files from before 0.1.0.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from pydantic import Field, field_validator, model_validator

from dist_rec.common.open_ids import OpenIds, dynamic_rows, split_tables
from dist_rec.common.strict import Strict, check_distinct
from dist_rec.data.attributes import AttributeField, lists_of_keys
from dist_rec.data.id_field import IdField
from dist_rec.data.id_lists import id_lists
from dist_rec.data.kinds import SentKinds, check_kinds, grouped_kinds
from dist_rec.data.later import FEEDBACK, FeedbackSchema
from dist_rec.data.layout import FeatureSet, FieldNgrams, Layout
from dist_rec.data.names import check_names
from dist_rec.data.numbers import as_buckets
from dist_rec.data.owners import CandidateSchema, RequestSchema, SequenceSchema

OWN_NAMES = frozenset(("candidate", "context", FEEDBACK))  # owners of columns that are no sequence


class Schema(Strict):
    name: str
    tables: dict[str, int] = Field(description="Embedding table -> number of ids; valid ids are 0 .. n-1.")
    open_ids: dict[str, OpenIds] = Field(
        default={},
        description="Tables that any 64-bit id may be looked up in; their number is how many they hold. In YAML: "
        "`tables: {item: {rows: 200000, ids: hashed}}`, or `dynamic`.",
    )
    request: RequestSchema
    context: list[IdField] = []
    sequences: list[SequenceSchema] = Field(min_length=1)
    candidate: CandidateSchema
    attributes: dict[str, dict[str, AttributeField]] = Field(
        default={}, description="Table -> what belongs to its ids and is stored once, by name; see attribute_store.py."
    )
    hidden: bool = Field(
        default=False,
        description="Whether tables and side values of events have one more value, HIDDEN, their last. A recipe whose "
        "filter hides events sets it; set here, it is there before such a filter is.",
    )
    feature_groups: dict[str, list[str]] = Field(
        default={},
        description="Context and candidate fields that belong together, as context.<field> and candidate.<field>; "
        "HyFormer and RankMixer make one token of each group. One group per field if none is declared.",
    )

    @model_validator(mode="before")
    @classmethod
    def _split_tables(cls, tree: Any) -> Any:
        return split_tables(tree)

    @field_validator("tables")
    @classmethod
    def _sizes(cls, tables: dict[str, int]) -> dict[str, int]:
        check_names("tables", tables)
        for name, size in tables.items():
            if not 0 < size < 2**31:
                raise ValueError(f"table {name}: expected 1 to 2^31 - 1 ids, got {size}")
        return tables

    @model_validator(mode="after")
    def _check(self) -> "Schema":
        if unknown := self.open_ids.keys() - self.tables.keys():
            raise ValueError(f"open_ids: table '{min(unknown)}' is not declared; declared: {', '.join(self.tables)}")
        owners = [("context", self.context, {}), *((s.name, s.ids, s.side) for s in self.sequences)]
        owners.append(("candidate", self.candidate.ids, self.candidate.side))
        feedback = self.candidate.feedback
        taken = OWN_NAMES if feedback is not None else OWN_NAMES - {FEEDBACK}
        if feedback is not None:
            owners.append((FEEDBACK, feedback.ids, feedback.side))
        for place, fields, side in owners:
            for field in fields:
                if field.table not in self.tables:
                    declared = ", ".join(self.tables)
                    raise ValueError(
                        f"{place}.{field.name}: table '{field.table}' is not declared; declared: {declared}"
                    )
                if field.ngram is not None and place in taken:
                    raise ValueError(f"{place}.{field.name}: n-grams are over events; expected ngram at a sequence")
            check_distinct(place, [*(field.name for field in fields), *side], "a field is one column")
        names = [s.name for s in self.sequences]
        check_names("sequences", names)
        if len(set(names)) < len(names) or taken & set(names):
            raise ValueError(
                f"sequence names must differ and not be {' or '.join(map(repr, sorted(taken)))}, got {names}"
            )
        if self.request.time is None and any(s.time for s in self.sequences):
            raise ValueError("a sequence has times, so request.time must name the column with the request's time")
        if self.request.time is None and ((feedback is not None and feedback.time) or self._horizons):
            raise ValueError("feedback with times and labels with a horizon need request.time, the time of the request")
        if self.candidate.visible_events and len(self.sequences) != 1:
            raise ValueError(f"candidate.visible_events needs exactly one sequence, got {len(self.sequences)}")
        for place, _, side in owners:
            check_names(f"{place}.side", side)
            for name, size in side.items():
                if not 0 < size <= 2**15 - self.hidden:
                    most = 2**15 - self.hidden
                    raise ValueError(f"{place}.{name}: a side value takes 1 to {most} values, got {size}")
        for of in self.sequences:
            self._check_ngrams(of)
        check_kinds(self)
        if self.feature_groups:
            _check_groups(self.feature_groups, self.grouped_fields)
        return self

    def _check_ngrams(self, sequence: SequenceSchema) -> None:
        for field in sequence.ids:
            if field.ngram is None:
                continue
            place = f"{sequence.name}.{field.name}.ngram"
            if field.table in self.open_ids:
                raise ValueError(f"{place}: n-grams are of ids with a range, and table {field.table} has none")
            check_names(place, [field.name])  # of a module
            if field.ngram.gap_seconds is not None and not sequence.time:
                raise ValueError(f"{place}: gap_seconds needs times of the events; expected time: true at the sequence")
            if field.ngram.candidate_bigram and (field.name, field.table) not in _looked_up(self.candidate.ids):
                raise ValueError(
                    f"{place}: candidate_bigram needs a field of the candidates of the same name and table; these have "
                    f"{', '.join(field.name for field in self.candidate.ids)}"
                )
            taken = ngram_table(sequence.name, field.name)
            others = [
                ngram_table(of.name, other.name)
                for of in self.sequences
                for other in of.ids
                if other.ngram is not None and (of.name, other.name) != (sequence.name, field.name)
            ]
            if taken in self.tables or taken in others:
                raise ValueError(
                    f"{place}: its table is called {taken}, as another one is; expected another name for the table, "
                    "the sequence or the field"
                )

    def rows_of(self, table: str) -> int:
        """Rows of an embedding table: its ids, and HIDDEN after them where events look it up; or of n-grams. A dynamic
        table always has both of its extra rows."""
        if table not in self.tables:
            return self.ngram_tables[table].spec.total_rows
        if self.open_ids.get(table) == "dynamic":
            return dynamic_rows(self.tables[table])
        return self.tables[table] + (self.hidden and table in self._event_tables)

    @property
    def ngram_tables(self) -> dict[str, FieldNgrams]:
        """The tables of n-grams, which are not among `tables`."""
        return {of.table: of for of in self.layout.ngrams.values()}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> "Schema":
        """As pydantic's, without what was worked out from the fields before they changed."""
        copied = super().model_copy(update=update, deep=deep)
        for name in ("layout", "sent_kinds", "_event_tables"):
            vars(copied).pop(name, None)
        return copied

    @property
    def _horizons(self) -> dict[str, int]:
        return {task: of.horizon for task, of in self.candidate.delayed.items() if of.horizon is not None}

    @property
    def feedback_read(self) -> FeedbackSchema | None:
        """The feedback, where batches have it. A sequence may have its name where none is declared."""
        feedback = self.candidate.feedback
        return feedback if feedback is not None and feedback.read else None

    def with_feedback(self, feedback: FeedbackSchema | None) -> "Schema":
        """The same with this feedback, None for none."""
        return self.model_copy(update={"candidate": self.candidate.model_copy(update={"feedback": feedback})})

    def as_served(self) -> "Schema":
        """The same, but feedback is not read: what a server knows. Its batches have the same keys."""
        feedback = self.candidate.feedback
        return self if feedback is None else self.with_feedback(feedback.model_copy(update={"read": False}))

    def without_labels(self) -> "Schema":
        """The same, but no column of labels is read: neither labels nor their truth nor when they came."""
        return self.model_copy(update={"candidate": self.candidate.model_copy(update={"labels_read": False})})

    def with_copies(self) -> "Schema":
        """The same, with all events in their requests."""
        sequences = [of.model_copy(update={"once": False}) for of in self.sequences]
        return self.model_copy(update={"sequences": sequences})

    def side_values(self, owner: SequenceSchema | CandidateSchema | FeedbackSchema) -> dict[str, int]:
        """Values of each side value of a sequence, of the candidates or of feedback, with HIDDEN; then of the numbers
        that are sent as buckets, where HIDDEN ones are missing."""
        return {name: size + self.hidden for name, size in owner.side.items()} | as_buckets(owner.numbers)

    @cached_property
    def sent_kinds(self) -> SentKinds:
        """What a batch has beside ids, side values and times."""
        return SentKinds.of(self)

    @cached_property
    def _event_tables(self) -> frozenset[str]:
        feedback = [] if self.candidate.feedback is None else [self.candidate.feedback]
        return frozenset(field.table for of in (*self.sequences, self.candidate, *feedback) for field in of.ids)

    @property
    def grouped_fields(self) -> list[str]:
        """Names in groups of all fields outside the sequences: context, then ids, side values, numbers and lists of
        the candidate."""
        context = [*(field.name for field in self.context), *grouped_kinds(self)]
        of = self.candidate
        candidate = [*(field.name for field in of.ids), *of.side, *of.numbers, *of.lists]
        return [*(f"context.{name}" for name in context), *(f"candidate.{name}" for name in candidate)]

    @property
    def token_groups(self) -> dict[str, list[str]]:
        """Fields by group: as declared, or every field in a group of its own name ("context.user")."""
        return self.feature_groups or {name: [name] for name in self.grouped_fields}

    @cached_property
    def layout(self) -> Layout:
        """Feature sets, keys and table sizes."""
        fields = {"context": self.context} if self.context else {}
        fields |= {s.name: s.ids for s in self.sequences} | {"candidate": self.candidate.ids}
        if self.candidate.feedback is not None and self.candidate.feedback.ids:
            fields[FEEDBACK] = self.candidate.feedback.ids
        owners: dict[str, FeatureSet] = {}
        tables: dict[str, str] = {}
        for owner, ids in fields.items():
            names = _looked_up(ids)
            shared = (owners[other] for other in owners if other != "context" and _looked_up(fields[other]) == names)
            if (found := next(shared, None)) is None:
                keys = {f"{owner}.{field.name}": field.table for field in ids}
                found = FeatureSet(owner, tuple(keys))
                tables |= keys
            owners[owner] = found
        for owner, of in id_lists(self).items():
            owners[owner], tables[owner] = FeatureSet(owner, (owner,)), of.table
        attributes, base = lists_of_keys(self, tables), dict(tables)
        owners |= {owner: FeatureSet(owner, (owner,)) for owner in attributes}
        for owner, (key, name) in attributes.items():
            tables[owner] = self.attributes[base[key]][name].list or ""
        sizes = {key: self.rows_of(table) for key, table in tables.items()}
        ngrams = {f"{of.sequence}.{of.field}.ngram": of for of in self._ngrams(owners)}
        of_candidates = {f"{owner}.candidate": of for owner, of in ngrams.items() if of.candidate_place is not None}
        owners |= {owner: FeatureSet(owner, (owner,)) for owner in ngrams | of_candidates}
        tables |= {owner: of.table for owner, of in (ngrams | of_candidates).items()}
        sizes |= {owner: of.spec.total_rows for owner, of in (ngrams | of_candidates).items()}
        sets = {of.name: of for of in owners.values()}
        return Layout(owners, sets, tables, sizes, ngrams, of_candidates, attributes, tuple(id_lists(self)))

    def _ngrams(self, owners: Mapping[str, FeatureSet]) -> Iterable[FieldNgrams]:
        candidate = [field.name for field in self.candidate.ids]
        for sequence in self.sequences:
            for place, field in enumerate(sequence.ids):
                if field.ngram is not None:
                    yield FieldNgrams(
                        sequence=sequence.name,
                        field=field.name,
                        place=place,
                        key=owners[sequence.name].keys[place],
                        base=field.table,
                        table=ngram_table(sequence.name, field.name),
                        spec=field.ngram,
                        hidden=self.tables[field.table] if self.hidden else None,
                        candidate_place=candidate.index(field.name) if field.ngram.candidate_bigram else None,
                    )


def ngram_table(sequence: str, field: str) -> str:
    """The name of the table of a field's n-grams."""
    return f"{sequence}_{field}_ngram"


def _looked_up(fields: Sequence[IdField]) -> list[tuple[str, str]]:
    return [(field.name, field.table) for field in fields]


def _check_groups(groups: dict[str, list[str]], known: list[str]) -> None:
    """Raises ValueError unless every known field is in exactly one group, once, and no group is empty."""
    owner: dict[str, str] = {}
    for group, fields in groups.items():
        place = f"feature_groups.{group}"
        if not fields:
            raise ValueError(f"{place}: expected at least one field, got none")
        for field in fields:
            if field not in known:
                raise ValueError(f"{place}: '{field}' is no context or candidate field; these are: {', '.join(known)}")
            if field in owner:
                raise ValueError(f"{place}: '{field}' is in group {owner[field]} already; a field has one group")
            owner[field] = group
    if missing := ", ".join(field for field in known if field not in owner):
        raise ValueError(f"feature_groups: expected every field in a group, but these are in none: {missing}")
