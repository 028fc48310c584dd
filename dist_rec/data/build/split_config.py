"""How a build file splits requests into folders."""

import datetime
import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from dist_rec.common.strict import Seed, Strict, check_distinct
from dist_rec.data.build.fields import Name, Seconds

# Readers pass over folders that begin with _ or ., and a dataset has two other folders beside its splits.
FOLDER = "[A-Za-z0-9][A-Za-z0-9_=-]{0,99}"
NO_FOLDERS = ("sequences", "attributes")
FOLDER_EXPECTED = f"a name of a folder, of letters, digits, _, = and -, and not {' or '.join(NO_FOLDERS)}"


class SplitConfig(Strict):
    """Which requests are for training. Ids are numbered, and numbers are fitted, by what was known at its end."""

    by: Literal["time", "user", "last", "windows", "column"] = Field(
        default="time",
        description="time: the requests of `valid` and `test` are the last ones. user: those of some users. last: "
        "the last request of every user with three or more is for the test, the one before for validation. windows: "
        "one folder for every `every`, to be trained on one after the other (data.windows). column: every row of "
        "requests says the folder of its request.",
    )
    column: Name | None = Field(default=None, description="By column: of requests, the folder, such as fold1.")
    train: list[str] = Field(
        default=["train"], min_length=1, description="By column: the folders that ids are numbered by."
    )
    every: Seconds | None = Field(default=None, ge=1, description="By windows: their length, such as 1d.")
    first: Seconds | None = Field(
        default=None, ge=1, description="By windows: length of the first one, by which ids are numbered; else `every`."
    )
    valid: float | str | None = Field(
        default=None, description="By time: where it starts, a date or time; or, by user too, the share of requests."
    )
    test: float | str | None = None
    zone: str = Field(default="UTC", description="Of dates and times without one.")
    seed: Seed = Field(default=0, description="By user: which users.")

    @field_validator("valid", "test", mode="before")
    @classmethod
    def _date(cls, value: Any) -> Any:
        """YAML reads 2024-05-01 as a date."""
        return value.isoformat() if isinstance(value, datetime.date) else value

    @model_validator(mode="after")
    def _check(self) -> "SplitConfig":
        given = (self.valid, self.test)
        if (self.by == "windows") != (self.every is not None) or (self.first is not None and self.every is None):
            raise ValueError("every: expected it with by: windows, and there only, as first")
        if (self.by == "column") != (self.column is not None) or (self.by != "column" and self.train != ["train"]):
            raise ValueError("column: expected it with by: column, and there only, as train")
        check_distinct("train", self.train, "a folder is trained on once")
        for name in self.train:
            if not re.fullmatch(FOLDER, name) or name.lower() in NO_FOLDERS:
                raise ValueError(f"train: expected {FOLDER_EXPECTED}, got '{name}'")
        if self.by in ("last", "windows", "column"):
            if given != (None, None):
                raise ValueError(f"by: {self.by} takes no valid and test")
            return self
        if all(isinstance(value, float) for value in given):
            shares = [value for value in given if isinstance(value, float)]
            if min(shares) <= 0 or sum(shares) >= 1:
                raise ValueError(f"expected shares of valid and test that leave some for training, got {shares}")
            return self
        if self.by == "user" or not all(isinstance(value, str) for value in given):
            raise ValueError(
                "expected valid and test both as shares, or by time both as dates or times, such as valid: "
                f"'2024-05-01', got {self.valid!r} and {self.test!r}"
            )
        return self
