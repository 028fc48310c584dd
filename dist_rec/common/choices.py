"""Choices that a recipe shares with what it describes, each written once. No torch."""

from typing import Any, Literal, get_args

DenseUpdate = Literal["sync", "delayed"]
CorrectionKind = Literal["none", "extrapolate", "error_feedback"]
HashWhere = Literal["auto", "host", "device"]
Compress = Literal["none", "bf16"]
TeacherKind = Literal["live", "frozen", "ema", "trust_region"]
DistilledRows = Literal["all", "labelled", "immature"]


def check_choice(name: str, value: str, choices: Any) -> None:
    """Raises ValueError if `value` is none of a Literal's."""
    if value not in get_args(choices):
        raise ValueError(f"{name} must be {' or '.join(get_args(choices))}, got {value!r}")


Encoding = Literal["value", "buckets", "piecewise"]  # of a number
