"""A field that holds ids, as a schema declares it."""

from typing import Any

from pydantic import Field, model_validator

from dist_rec.common.ngram import NgramSpec
from dist_rec.common.strict import Strict


class IdField(Strict):
    """An id with an embedding table. In YAML a bare name `item` means `{name: item, table: item}`."""

    name: str
    table: str = ""
    ngram: NgramSpec | None = Field(
        default=None,
        description="Of a field of a sequence: n-grams of its ids over the events, in a table of their own.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        value = {"name": value} if isinstance(value, str) else value
        return {"table": value["name"], **value} if isinstance(value, dict) and "name" in value else value
