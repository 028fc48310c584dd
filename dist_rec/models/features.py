"""Where the fields of context and candidate are among the features of a candidate. Free of torch."""

from dataclasses import dataclass
from itertools import accumulate

from dist_rec.data.attributes import AttributeField
from dist_rec.data.kinds import request_features
from dist_rec.data.numbers import as_sent
from dist_rec.data.schema import Schema
from dist_rec.models.config import TokenConfig


def widened(schema: Schema, table_dims: dict[str, int], config: TokenConfig) -> dict[str, int]:
    """Widths of the rows of every table with the attributes of its ids: numbers are as wide as side values, lists as
    the rows of their table."""

    def width(of: AttributeField) -> int:
        if of.list is not None:
            return table_dims[of.list]
        return config.side_dim if of.vector is None else config.vector_dim

    return {
        table: dim + sum(width(of) for of in schema.attributes.get(table, {}).values())
        for table, dim in table_dims.items()
    }


@dataclass(frozen=True)
class FeatureColumns:
    """Columns of `[context ; candidate]` features by group of the schema.

    - `total`: their number
    - `groups`: group -> one slice per field, and per n-grams of a field of the candidate
    - `candidate_groups`: indices of the groups that have a field of the candidate
    """

    total: int
    groups: dict[str, list[slice]]
    candidate_groups: list[int]

    @classmethod
    def of(cls, schema: Schema, table_dims: dict[str, int], side_dim: int) -> "FeatureColumns":
        """`table_dims` as `widened` gives them."""
        widths = {f"context.{field.name}": table_dims[field.table] for field in schema.context}
        widths |= {f"context.{name}": side_dim for name in request_features(schema)}
        widths |= {f"context.{name}": table_dims[of.table] for name, of in schema.request.lists.items()}
        widths |= {f"candidate.{field.name}": table_dims[field.table] for field in schema.candidate.ids}
        widths |= {f"candidate.{name}": side_dim for name in schema.side_values(schema.candidate)}
        grams = {f"{owner} of candidates": of for owner, of in schema.layout.candidate_ngrams.items()}
        widths |= {name: table_dims[of.table] * of.spec.tables for name, of in grams.items()}
        widths |= {f"candidate.{name}": side_dim for name in as_sent(schema.candidate.numbers)}
        widths |= {f"candidate.{name}": table_dims[of.table] for name, of in schema.candidate.lists.items()}
        beside: dict[str, list[str]] = {}
        for name, of in grams.items():
            beside.setdefault(f"candidate.{of.field}", []).append(name)
        ends = dict(zip(widths, accumulate(widths.values()), strict=True))
        return cls(
            total=sum(widths.values()),
            groups={
                group: [
                    slice(ends[name] - widths[name], ends[name])
                    for field in fields
                    for name in (field, *beside.get(field, ()))
                ]
                for group, fields in schema.token_groups.items()
            },
            candidate_groups=[
                index
                for index, fields in enumerate(schema.token_groups.values())
                if any(field.startswith("candidate.") for field in fields)
            ],
        )
