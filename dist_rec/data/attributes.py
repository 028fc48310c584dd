"""What belongs to an id and is stored once, such as the year, the genres and the title of an item, as a schema declares
it. The files: attribute_store.py. Does not import torch."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from dist_rec.common.strict import Strict, Width
from dist_rec.data.numbers import NumberField

if TYPE_CHECKING:
    from dist_rec.data.schema import Schema

RESERVED = ("ngram", "candidate")  # last words of the keys of n-grams


class AttributeField(Strict):
    """One attribute of the ids of a table: exactly one of `number`, `list` and `vector`."""

    number: NumberField | None = Field(default=None, description="A number of each id; NaN where it is missing.")
    list: str | None = Field(
        default=None, description="A table: each id has a list of its ids, perhaps empty, whose rows are pooled."
    )
    pool: Literal["mean", "sum"] = Field(default="mean", description="How the rows of a list become one.")
    vector: Width | None = Field(
        default=None, description="So many numbers of each id, such as the output of a text model; stored in float16."
    )

    @model_validator(mode="after")
    def _check(self) -> "AttributeField":
        given = [name for name in ("number", "list", "vector") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected exactly one of number, list and vector, got {' and '.join(given) or 'none'}")
        if self.pool != "mean" and self.list is None:
            raise ValueError(f"pool: {self.pool} is of the rows of a list; expected list beside it")
        return self


def every_attribute(schema: "Schema") -> Iterator[tuple[str, str, AttributeField]]:
    """Table, name and field of each."""
    for table, attributes in schema.attributes.items():
        for name, of in attributes.items():
            yield table, name, of


def lists_of_keys(schema: "Schema", tables: dict[str, str]) -> dict[str, tuple[str, str]]:
    """ "<key>.<attribute>" -> key and attribute, of every list that the ids of a key have; `tables` key -> table."""
    return {
        f"{key}.{name}": (key, name)
        for key, table in tables.items()
        for name, of in schema.attributes.get(table, {}).items()
        if of.list is not None
    }
