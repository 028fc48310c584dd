"""Lists of ids of requests and of candidates: a field whose rows are pooled.

Legend: B requests, C candidates.
"""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from dist_rec.common.strict import Strict

if TYPE_CHECKING:
    from dist_rec.data.schema import Schema


class ListField(Strict):
    """A list of ids, perhaps empty, whose rows become one. In YAML a bare name `tag` means `{table: tag}`."""

    table: str
    pool: Literal["mean", "sum"] = Field(default="mean", description="How the rows of a list become one.")

    @model_validator(mode="before")
    @classmethod
    def _from_table(cls, value: Any) -> Any:
        return {"table": value} if isinstance(value, str) else value


def id_lists(schema: "Schema") -> dict[str, ListField]:
    """By owner of their ids: "context.<name>" of requests, then "candidate.<name>"."""
    found = {f"context.{name}": of for name, of in schema.request.lists.items()}
    return found | {f"candidate.{name}": of for name, of in schema.candidate.lists.items()}
