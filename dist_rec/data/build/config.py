"""What a build file of `dist-rec data build` holds. A column is always named as its source names it, or as
`<source>.<column>` for one of a table in `attributes`."""

import re
from typing import Any, Literal

from pydantic import Field, model_validator

from dist_rec.common.strict import Seed, Size, Strict, check_distinct
from dist_rec.data.build.fields import (
    IdConfig,
    ListConfig,
    Name,
    NumberConfig,
    Seconds,
    SideConfig,
    TimeConfig,
    VectorConfig,
    named,
)
from dist_rec.data.build.split_config import SplitConfig

# Names that other columns and files have: of requests, and of stored events.
TAKEN = {
    "requests": ("time", "user_key", "visible_events", "feedback_events"),
    "requests.context": ("time", "user_key"),
    "sequences.": ("time", "offsets", "user", "events"),
}


class SourceConfig(Strict):
    """Rows from files, or from a query over other sources."""

    files: list[str] = Field(
        default=[], description="Files, folders and globs, relative to the build file: CSV, TSV or Parquet, also .gz."
    )
    query: str | None = Field(default=None, description="Instead: a SELECT of DuckDB over the other sources.")
    format: Literal["auto", "csv", "parquet"] = Field(default="auto", description="auto: by the names of the files.")
    delimiter: str | None = Field(default=None, description="Of CSV; None: found by DuckDB.")
    header: bool = Field(default=True, description="Whether the first line of CSV names the columns.")
    columns: list[Name] | None = Field(default=None, description="Names of the columns of CSV without a header.")
    encoding: Literal["utf-8", "latin-1", "utf-16"] = "utf-8"
    null: list[str] = Field(default=[""], description="Texts of CSV that mean that a value is missing.")

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        value = {"files": value} if isinstance(value, str | list) else value
        if isinstance(value, dict) and isinstance(value.get("files"), str):
            return {**value, "files": [value["files"]]}
        return value

    @model_validator(mode="after")
    def _check(self) -> "SourceConfig":
        if bool(self.files) == (self.query is not None):
            raise ValueError(f"expected either files or a query, got {'both' if self.files else 'neither'}")
        if self.header and self.columns is not None:
            raise ValueError("columns: expected none, since header is true and names them")
        if not self.header and not self.columns:
            raise ValueError("columns: expected the names of the columns, since header is false")
        return self


class EventsConfig(Strict):
    """A sequence: the events of the user of a request that were known before it."""

    source: Name
    where: str | None = Field(default=None, description="Condition of DuckDB over the columns of the source.")
    user: Name
    time: TimeConfig
    times: bool = Field(default=True, description="false: times only order the events, and the dataset has none.")
    order: list[Name] = Field(default=[], description="Columns that order events of the same time; then the file.")
    delay: Seconds = Field(default=0, description="After how long the log showed an event: 30s, 5m, 1h, 1d.")
    ids: dict[str, IdConfig] = Field(min_length=1)
    side: dict[str, SideConfig] = {}
    numbers: dict[str, NumberConfig] = {}
    most: Size | None = Field(default=None, ge=1, description="Newest events that a request keeps; None: all.")


class LabelConfig(Strict):
    """A label of a candidate: a column of its row, or an event of the user that came later."""

    column: Name | None = Field(default=None, description="1 and 0, true and false; or any number, with at_least.")
    at_least: float | None = Field(default=None, description="The label is 1 from this value on.")
    source: Name | None = Field(default=None, description="Instead of a column: 1 if there is such an event later.")
    where: str | None = None
    user: Name | None = None
    time: TimeConfig | None = None
    match: dict[str, str] = Field(default={}, description="Column of the source -> column of the candidate's source.")
    within: Seconds | None = Field(default=None, ge=1, description="After the request, such as 7d.")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return named(value)

    @model_validator(mode="after")
    def _check(self) -> "LabelConfig":
        of_events = {name: getattr(self, name) for name in ("source", "user", "time", "within")}
        missing = [name for name, value in of_events.items() if value is None]
        if (self.column is not None) == (len(missing) < len(of_events)):
            raise ValueError("expected either a column, or a source with user, time and within")
        if self.column is None and missing:
            raise ValueError(f"a label of later events needs {', '.join(of_events)}; missing: {', '.join(missing)}")
        if self.column is not None and (self.match or self.where):
            raise ValueError("match and where are of labels of later events")
        if self.at_least is not None and self.column is None:
            raise ValueError("at_least is of labels in a column")
        return self


class NegativesConfig(Strict):
    """Candidates without a 1, for logs of positives alone, or fewer of those there are."""

    sample: Literal["uniform", "popularity", "page"] = Field(
        description="uniform, popularity: items of the training split, equally likely or as often as they occur as "
        "candidates there. page: of the candidates without a 1, so many as `keep` says."
    )
    count: Size | None = Field(default=None, ge=1, description="Of uniform and popularity: so many for each request.")
    keep: float | None = Field(default=None, gt=0, lt=1, description="Of page: the share that is kept.")
    seed: Seed = 0

    @model_validator(mode="after")
    def _check(self) -> "NegativesConfig":
        needed, other = ("keep", "count") if self.sample == "page" else ("count", "keep")
        if getattr(self, needed) is None or getattr(self, other) is not None:
            raise ValueError(f"sample: {self.sample} needs {needed}, and no {other}")
        return self


class RequestsConfig(Strict):
    """Rows of candidates. Those of one user with the same `page`, or without one the same time, are one request, whose
    time is that of the first of them. With `visible_events` all of a user, or of a `page`, are one request."""

    source: Name
    where: str | None = None
    user: Name
    time: TimeConfig
    page: list[Name] = Field(default=[], description="Columns whose values are the same for candidates shown at once.")
    order: list[Name] = Field(default=[], description="Columns that order the candidates of a request.")
    context: dict[str, IdConfig] = Field(default={}, description="Ids of the request, from its first candidate.")
    ids: dict[str, IdConfig] = Field(min_length=1, description="Ids of a candidate.")
    side: dict[str, SideConfig] = {}
    numbers: dict[str, NumberConfig] = Field(default={}, description="Of a candidate.")
    context_numbers: dict[str, NumberConfig] = Field(
        default={}, description="Of the request, from its first candidate."
    )
    cyclic: bool = Field(default=False, description="As in a schema: time of day and of the week.")
    utc_offset: float = Field(default=0.0, ge=-24.0, le=24.0, description="As in a schema.")
    labels: dict[str, LabelConfig] = Field(min_length=1)
    given: dict[str, str] = Field(default={}, description="As in a schema: task -> task that defines it where it is 1.")
    negatives: NegativesConfig | None = None
    most: Size | None = Field(default=None, ge=1, description="Most candidates of a request; more are cut in two.")
    visible_events: bool = Field(
        default=False,
        description="As in a schema, a label at every event: each candidate sees only the events strictly before its "
        "own time, and the request has those that its last candidate sees.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_page(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("page"), str):
            return {**value, "page": [value["page"]]}
        return value


class AttributesConfig(Strict):
    """A source with one row for every id of a table."""

    key: Name = Field(description="Its column of ids.")
    of: Name = Field(description="The table of these ids.")
    numbers: dict[str, NumberConfig] = Field(default={}, description="Stored once per id, as are lists and vectors.")
    lists: dict[str, ListConfig] = {}
    vectors: dict[str, VectorConfig] = {}


class TableConfig(Strict):
    """How the ids of a table are numbered."""

    ids: Literal["vocabulary", "range", "hashed", "dynamic"] = Field(
        default="vocabulary",
        description="vocabulary: ids of the training split, most frequent first, after those for all others. range: "
        "whole numbers 0 .. rows - 1, as they are. hashed, dynamic: any ids, as in a schema; text becomes the first 64 "
        "bits of its BLAKE2b, a missing one 0.",
    )
    min_count: Size = Field(default=1, ge=1, description="Of vocabulary: rarer ids of the training split are others.")
    others: Size = Field(default=1, ge=1, description="Of vocabulary: rows that all other ids share, by a hash.")
    rows: Size | None = Field(default=None, ge=1, description="Of range, hashed and dynamic.")

    @model_validator(mode="after")
    def _check(self) -> "TableConfig":
        if (self.ids != "vocabulary") != (self.rows is not None):
            raise ValueError("rows: expected them with ids: range, hashed or dynamic, and only there")
        return self

    @property
    def is_open(self) -> bool:
        """Whether its ids have no range."""
        return self.ids in ("hashed", "dynamic")


class BuildConfig(Strict):
    """A build file."""

    name: Name
    sources: dict[str, SourceConfig] = Field(min_length=1)
    attributes: dict[str, AttributesConfig] = {}
    sequences: dict[str, EventsConfig] = Field(min_length=1)
    requests: RequestsConfig
    tables: dict[str, TableConfig] = Field(default={}, description="Tables that are not numbered by a vocabulary.")
    histories: Literal["copies", "once"] = Field(
        default="copies",
        description="Whether every request has a copy of its events, or events are stored once for each user.",
    )
    split: SplitConfig = SplitConfig(valid=0.1, test=0.1)
    feature_groups: dict[str, list[str]] = Field(default={}, description="As in a schema.")
    bad_rows: Literal["stop", "drop"] = Field(
        default="stop", description="What a wrong or missing value does: an error with its place, or fewer rows."
    )
    duplicates: Literal["keep", "drop"] = Field(default="keep", description="Rows that are equal in all that is read.")

    @model_validator(mode="after")
    def _check(self) -> "BuildConfig":
        for place, names in self._names.items():
            for name in names:
                taken = TAKEN.get("sequences." if place.startswith("sequences.") else place, ())
                if not re.fullmatch(r"[A-Za-z0-9_][\w-]*", name) or name in taken:
                    expected = "expected another one, of letters and digits"
                    raise ValueError(f"{place}: '{name}' cannot be a name here; {expected}")
            check_distinct(place, [name.casefold() for name in names], "names differ in more than capitals")
        for name in self.sources:
            if not re.fullmatch(r"[A-Za-z_]\w*", name):
                raise ValueError(f"sources: expected a name of letters, digits and _, got '{name}'")
        used = [(f"sequences.{name}", of.source) for name, of in self.sequences.items()]
        used += [("requests", self.requests.source), *((f"attributes.{name}", name) for name in self.attributes)]
        used += [(f"requests.labels.{n}", of.source) for n, of in self.requests.labels.items() if of.source is not None]
        for place, source in used:
            if source not in self.sources:
                raise ValueError(f"{place}: no source '{source}'; these are: {', '.join(self.sources)}")
        for table in [*self.tables, *(of.of for of in self.attributes.values())]:
            if table not in self.table_names:
                raise ValueError(f"no field uses the table '{table}'; these are: {', '.join(self.table_names)}")
        numbers = {"requests": self.requests.numbers, "requests.context": self.requests.context_numbers}
        numbers |= {f"sequences.{name}": of.numbers for name, of in self.sequences.items()}
        for place, ids, side in self.owners:
            check_distinct(place, [*ids, *side, *numbers[place]], "a field is one column")
            for name, of in {**ids, **side}.items():
                self._check_column(f"{place}.{name}", of.column, ids)
        for table in {of.of for of in self.attributes.values()}:
            beside = [of for of in self.attributes.values() if of.of == table]
            names = [name for of in beside for name in (*of.numbers, *of.lists, *of.vectors)]
            for name in (field.table for of in beside for field in of.lists.values()):
                if self.tables.get(name, TableConfig()).is_open:
                    raise ValueError(f"attributes of {table}: a list of ids needs a table with a range, got '{name}'")
            check_distinct(f"attributes of {table}", names, "an attribute is one column")
        if self.histories == "once" and any(of.most is not None for of in self.sequences.values()):
            raise ValueError(
                "sequences: with histories: once a recipe cuts histories (data.max_length); expected no most"
            )
        for place, fields in numbers.items():
            for name, field in fields.items():
                if self.attributes_of(field.column) is not None:
                    raise ValueError(
                        f"{place}.{name}: '{field.column}' belongs to ids; expected it under numbers of its attributes"
                    )
        later = [name for name, of in self.requests.labels.items() if of.source is not None]
        if self.requests.visible_events:
            self._check_visible_events(later)
        negatives = self.requests.negatives
        if negatives is not None and negatives.sample != "page":
            if later:
                raise ValueError(
                    f"requests.negatives: sampled candidates have no labels of later events, as {later[0]}"
                )
            self._check_sampled()
        return self

    def attributes_of(self, column: str) -> tuple[str, str] | None:
        """Source and column of `<source>.<column>`, where the source is one of attributes; None for another column."""
        source, _, name = column.partition(".")
        return (source, name) if name and source in self.attributes else None

    def _check_column(self, place: str, column: str, ids: dict[str, IdConfig]) -> None:
        """Raises ValueError if its attributes are of a table that no field of the same owner has the ids of."""
        if (of := self.attributes_of(column)) is None:
            return
        table = self.attributes[of[0]].of
        if self.key_field(ids, table) is None:
            raise ValueError(f"{place}: {column} is of table '{table}', but no field beside it has ids of this table")

    def key_field(self, ids: dict[str, IdConfig], table: str) -> str | None:
        """The first of these fields that has ids of a table from a column of its own."""
        own = (name for name, of in ids.items() if self.attributes_of(of.column) is None)
        return next((name for name in own if (ids[name].table or name) == table), None)

    def _check_visible_events(self, later: list[str]) -> None:
        """Raises ValueError for what a request whose candidates have times of their own cannot have."""
        requests, sequences = self.requests, self.sequences
        if len(sequences) != 1:
            raise ValueError(f"requests.visible_events: expected exactly one sequence, got {', '.join(sequences)}")
        ((name, of),) = sequences.items()
        refused = {
            f"sequences.{name}.times": (
                of.times,
                "times: false, since a model reads how long ago events were from the "
                "time of the request, and a request of many moments has none",
            ),
            f"sequences.{name}.most": (of.most is not None, "none, since candidates count events from the oldest"),
            "requests.cyclic": (requests.cyclic, "false, since a request of many moments has no time"),
            "requests.most": (requests.most is not None, "none, since it would cut a history in two"),
            "requests.negatives": (requests.negatives is not None, "none, since they have no time of their own"),
            "requests.labels": (bool(later), "columns, since labels of later events count from the request's time"),
        }
        for place, (wrong, expected) in refused.items():
            if wrong:
                raise ValueError(f"{place}: with requests.visible_events expected {expected}")

    def _check_sampled(self) -> None:
        """Raises ValueError unless all that a candidate has follows from its first id."""
        requests, first = self.requests, next(iter(self.requests.ids))
        table = requests.ids[first].table or first
        for name, of in {**requests.ids, **requests.side, **requests.numbers}.items():
            source = self.attributes_of(of.column)
            if name != first and (source is None or self.attributes[source[0]].of != table):
                raise ValueError(
                    f"requests.negatives: a sampled candidate has nothing but attributes of its {first}, and "
                    f"requests.{name} is read from '{of.column}'; expected a column of attributes of '{table}'"
                )
        kind = self.tables.get(table, TableConfig()).ids
        if kind != "vocabulary":
            raise ValueError(f"requests.negatives: '{table}' needs a vocabulary to sample from, got ids: {kind}")

    @property
    def _names(self) -> dict[str, list[str]]:
        """Names that become columns, files or tables, by their place."""
        found = {"sources": list(self.sources), "sequences": list(self.sequences), "tables": self.table_names}
        for place, ids, side in self.owners:
            found[place] = [*ids, *side]
        found["requests"] += [*self.requests.numbers, *self.requests.labels]
        found["requests.context"] += self.requests.context_numbers
        for name, of in self.sequences.items():
            found[f"sequences.{name}"] += of.numbers
        return found

    @property
    def owners(self) -> list[tuple[str, dict[str, IdConfig], dict[str, SideConfig]]]:
        """Place, ids and side values of context, candidates and every sequence."""
        sequences = [(f"sequences.{name}", of.ids, of.side) for name, of in self.sequences.items()]
        return [
            ("requests.context", self.requests.context, {}),
            ("requests", self.requests.ids, self.requests.side),
            *sequences,
        ]

    @property
    def table_names(self) -> list[str]:
        """Tables in the order of the fields that use them."""
        own = [of.table or name for _, ids, _ in self.owners for name, of in ids.items()]
        own += [of.table for source in self.attributes.values() for of in source.lists.values()]
        return list(dict.fromkeys(own))
