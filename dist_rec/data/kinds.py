"""Fields that are neither ids nor side values, of a whole schema: what they may be called, and where they are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dist_rec.common.strict import ConfigError, check_distinct
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
    """

    numbers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    buckets: tuple[str, ...] = ()
    has_request: bool = False

    @classmethod
    def of(cls, schema: "Schema") -> "SentKinds":
        numbers = {owner: tuple(as_sent(numbers)) for owner, numbers in numbers_of(schema).items()}
        return cls(numbers, tuple(as_buckets(schema.request.numbers)), bool(grouped_kinds(schema)))


def check_kinds(schema: "Schema") -> None:
    """Raises ValueError for numbers that share a name with another field of their owner, or have too many buckets."""
    taken = {REQUEST: [field.name for field in schema.context]}
    taken |= {of.name: [*(field.name for field in of.ids), *of.side] for of in schema.sequences}
    taken[CANDIDATE] = [*(field.name for field in schema.candidate.ids), *schema.candidate.side]
    for owner, numbers in numbers_of(schema).items():
        check_names(f"{owner}.numbers", numbers)
        if owner == REQUEST:
            check_names("request.time", cyclic_names(schema))
            taken[owner] += cyclic_names(schema)
        check_distinct(owner, [*taken[owner], *numbers], "a field is one column")
        for name, of in numbers.items():
            if (of.num_buckets or 0) > 2**15:
                raise ValueError(f"{owner}.{name}: a number has at most {2**15 - 2} bounds, got {of.num_buckets} more")


def numbers_of(schema: "Schema") -> dict[str, dict[str, NumberField]]:
    """Numbers by owner: `request`, every sequence, `candidate`."""
    owners = {of.name: of.numbers for of in schema.sequences}
    return {REQUEST: schema.request.numbers} | owners | {CANDIDATE: schema.candidate.numbers}


def named_numbers(schema: "Schema") -> dict[str, NumberField]:
    """By the names that people use: "context.<name>" of the request, "<owner>.<name>" of others."""
    return {
        f"{CONTEXT if owner == REQUEST else owner}.{name}": of
        for owner, numbers in numbers_of(schema).items()
        for name, of in numbers.items()
    }


def grouped_kinds(schema: "Schema") -> list[str]:
    """Of a request, beside its context fields: names of its features, which are in groups."""
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
