"""Columns of a build file by what they hold, and durations."""

import re
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BeforeValidator, Field, field_validator, model_validator

from dist_rec.common.choices import Encoding
from dist_rec.common.strict import Size, Strict

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
DURATION = re.compile(r"(\d+)\s*([smhdw])")


def seconds(value: Any) -> Any:
    """7d, 36h, 90m, 30s and 2w as seconds; a number stays."""
    if not isinstance(value, str):
        return value
    found = DURATION.fullmatch(value.strip())
    if found is None:
        raise ValueError(f"expected seconds, or a number with s, m, h, d or w such as 7d, got {value!r}")
    return int(found[1]) * UNITS[found[2]]


def named(value: Any) -> Any:
    return {"column": value} if isinstance(value, str) else value


def known_zone(name: str) -> str:
    """Raises ValueError for an unknown zone."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise ValueError(f"expected a zone such as Europe/Berlin, got {name!r}") from None
    return name


Seconds = Annotated[int, BeforeValidator(seconds), Field(ge=0, le=2**40)]
Name = Annotated[str, Field(min_length=1)]


class TimeConfig(Strict):
    """A column of times. In YAML a bare name `ts` means `{column: ts}`."""

    column: Name
    unit: Literal["auto", "s", "ms", "us", "ns"] = Field(
        default="auto", description="Of numbers; auto: what puts the newest of them between 1970 and 5138."
    )
    zone: str = Field(default="UTC", description="Of timestamps without a time zone, such as America/New_York.")

    @field_validator("zone")
    @classmethod
    def _known(cls, zone: str) -> str:
        return known_zone(zone)

    _from_name = model_validator(mode="before")(lambda value: named(value))


class IdConfig(Strict):
    """A column of ids. In YAML a bare name means `{column: name}`, and the table is called as the field."""

    column: Name
    table: str | None = None

    _from_name = model_validator(mode="before")(lambda value: named(value))


class SideConfig(Strict):
    """A column with few values. In YAML a bare name means `{column: name}`."""

    column: Name
    values: list[str] | None = Field(
        default=None,
        description="The values in their order; others are errors. None: those of the training split, most frequent "
        "first, after 0 for all others and for missing ones.",
    )
    most: Size = Field(default=255, ge=1, le=2**15 - 2, description="Without `values`: how many are kept.")

    _from_name = model_validator(mode="before")(lambda value: named(value))


class NumberConfig(Strict):
    """A column of numbers, empty or NaN where one is missing. In YAML a bare name means `{column: name}`. The rest as
    in a schema (`NumberField`); what has to be fitted is, on the training split."""

    column: Name
    scale: Literal["linear", "log"] = "linear"
    encoding: Encoding = "piecewise"
    bounds: list[float] | None = None
    bins: Size = Field(default=16, ge=2, le=1024)

    _from_name = model_validator(mode="before")(lambda value: named(value))


class ListConfig(Strict):
    """A column of lists of ids of `table`, such as tags: a list of Parquet, or text with a separator."""

    column: Name
    table: Name
    split: str | None = Field(default=None, min_length=1, description="What separates the ids in a text.")
    pool: Literal["mean", "sum"] = "mean"


class VectorConfig(Strict):
    """A column of lists of `dim` numbers, such as what a model says of a text. A row without one is all zeros."""

    column: Name
    dim: Size = Field(ge=1)
