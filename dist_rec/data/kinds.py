"""Fields that are neither ids nor side values, of a whole schema: what they may be called, and where they are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dist_rec.common.strict import ConfigError, check_distinct
from dist_rec.data.attributes import RESERVED, AttributeField, every_attribute
from dist_rec.data.id_lists import id_lists
from dist_rec.data.names import check_names
from dist_rec.data.numbers import FIT, NumberField, as_buckets, as_sent

if TYPE_CHECKING:
    from dist_rec.data.schema import Schema

REQUEST, CANDIDATE, CONTEXT = "request", "candidate", "context"


@dataclass(frozen=True)
class SentKinds:
    """What a batch has beside ids, side values and times.

    - `numbers` owner -> names of the numbers that are sent as float32
    - `buckets` of the requests: names of the numbers that are sent as buckets
    - `has_request`: whether requests have any values beside the ids of their context
    - `attributes` key -> names of the attributes of its ids that are numbers or vectors; `lists` those that are lists
    - `id_lists` owners of the lists of requests and candidates
    """

    numbers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    buckets: tuple[str, ...] = ()
    has_request: bool = False
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    id_lists: tuple[str, ...] = ()

    @classmethod
    def of(cls, schema: "Schema") -> "SentKinds":
        numbers = {owner: tuple(as_sent(numbers)) for owner, numbers in numbers_of(schema).items()}
        of_keys = attributes_of_keys(schema)
        return cls(
            numbers,
            tuple(as_buckets(schema.request.numbers)),
            bool(request_features(schema)),
            {key: tuple(name for name, of in found.items() if of.list is None) for key, found in of_keys.items()},
            {key: tuple(name for name, of in found.items() if of.list is not None) for key, found in of_keys.items()},
            schema.layout.id_lists,
        )


def check_kinds(schema: "Schema") -> None:
    """Raises ValueError for numbers that share a name with another field of their owner, or have too many buckets."""
    taken = {REQUEST: [field.name for field in schema.context]}
    taken |= {of.name: [*(field.name for field in of.ids), *of.side] for of in schema.sequences}
    taken[CANDIDATE] = [*(field.name for field in schema.candidate.ids), *schema.candidate.side]
    _check_attributes(schema)
    _check_open_ids(schema)
    for place, of in id_lists(schema).items():
        if of.table not in schema.tables:
            declared = ", ".join(schema.tables)
            raise ValueError(f"{place}: table '{of.table}' is not declared; declared: {declared}")
    for owner, lists in ((REQUEST, schema.request.lists), (CANDIDATE, schema.candidate.lists)):
        check_names(f"{owner}.lists", lists)
        taken[owner] += lists
    for owner, numbers in numbers_of(schema).items():
        check_names(f"{owner}.numbers", numbers)
        if owner == REQUEST:
            check_names("request.time", cyclic_names(schema))
            taken[owner] += cyclic_names(schema)
        check_distinct(owner, [*taken[owner], *numbers], "a field is one column")
        for name, of in numbers.items():
            if (of.num_buckets or 0) > 2**15:
                raise ValueError(f"{owner}.{name}: a number has at most {2**15 - 2} bounds, got {of.num_buckets} more")


def _check_open_ids(schema: "Schema") -> None:
    """What is pooled by the number of an id needs numbers."""
    lists = [(place, of.table) for place, of in id_lists(schema).items()]
    lists += [(f"attributes.{table}.{name}", of.list) for table, name, of in every_attribute(schema) if of.list]
    for place, table in lists:
        if table in schema.open_ids:
            raise ValueError(f"{place}: expected a table with ids: range, got {schema.open_ids[table]} ids of {table}")


def _check_attributes(schema: "Schema") -> None:
    known = ", ".join(schema.tables)
    for table, attributes in schema.attributes.items():
        if table not in schema.tables:
            raise ValueError(f"attributes.{table}: table '{table}' is not declared; declared: {known}")
        check_names(f"attributes.{table}", attributes)
        for name, of in attributes.items():
            if name in RESERVED:
                raise ValueError(f"attributes.{table}: '{name}' is a word of n-grams; expected another name")
            if name == "ids" and table in schema.open_ids:
                raise ValueError(f"attributes.{table}: 'ids' is the file of the ids; expected another name")
            if of.list is not None and of.list not in schema.tables:
                raise ValueError(f"attributes.{table}.{name}: table '{of.list}' is not declared; declared: {known}")


def numbers_of(schema: "Schema") -> dict[str, dict[str, NumberField]]:
    """Numbers by owner: `request`, every sequence, `candidate`."""
    owners = {of.name: of.numbers for of in schema.sequences}
    return {REQUEST: schema.request.numbers} | owners | {CANDIDATE: schema.candidate.numbers}


def owner_word(owner: str) -> str:
    """In the names of fields: what belongs to a request is its context."""
    return CONTEXT if owner == REQUEST else owner


def named_numbers(schema: "Schema") -> dict[str, NumberField]:
    """By the names that people use: "context.<name>" of the request, "<owner>.<name>" of others, and
    "attributes.<table>.<name>" of ids."""
    of_ids = {f"attributes.{table}.{n}": of.number for table, n, of in every_attribute(schema) if of.number is not None}
    return of_ids | {
        f"{owner_word(owner)}.{name}": of
        for owner, numbers in numbers_of(schema).items()
        for name, of in numbers.items()
    }


def numbers_of_tree(tree: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """As `named_numbers`, of a schema as plain values, to be changed there."""
    found = {
        f"attributes.{table}.{name}": of["number"]
        for table, attributes in tree.get("attributes", {}).items()
        for name, of in attributes.items()
        if of.get("number") is not None
    }
    owners = {CONTEXT: tree["request"]} | {of["name"]: of for of in tree["sequences"]} | {CANDIDATE: tree[CANDIDATE]}
    return found | {
        f"{owner}.{name}": number for owner, of in owners.items() for name, number in of.get("numbers", {}).items()
    }


def attributes_of_keys(schema: "Schema") -> dict[str, dict[str, AttributeField]]:
    """Attributes by key of ids that have some: not those of lists and of n-grams, which have none."""
    layout = schema.layout
    made = layout.attribute_lists.keys() | layout.ngrams.keys() | layout.candidate_ngrams.keys()
    return {
        key: schema.attributes[table]
        for key, table in layout.tables.items()
        if key not in made and schema.attributes.get(table)
    }


def grouped_kinds(schema: "Schema") -> list[str]:
    """Of a request, beside its context fields: names of its features, which are in groups."""
    return [*request_features(schema), *schema.request.lists]


def request_features(schema: "Schema") -> list[str]:
    """Those of a request that are no ids: its numbers, and its time if it is cyclic."""
    return [*schema.request.numbers, *cyclic_names(schema)]


def cyclic_names(schema: "Schema") -> list[str]:
    """The time of the request, if the time of day and of the week are features."""
    return [schema.request.time] if schema.request.cyclic and schema.request.time is not None else []


def check_fitted(schema: "Schema") -> None:
    """Raises ConfigError if an encoding needs what only a fit finds."""
    if unfitted := [name for name, of in named_numbers(schema).items() if not of.is_fitted]:
        raise ConfigError(
            f"schema {schema.name}: numbers whose mean or quantiles are not known yet: {', '.join(unfitted)}; {FIT}, "
            "which reads the training split, or give them bounds and an encoding that needs no more"
        )
