"""Declared structures (recipes, schemas, options of parts): their checks and error messages."""

import difflib
import itertools
import os.path
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

T = TypeVar("T", bound="Strict")


class ConfigError(ValueError):
    """A recipe, an override or a schema is wrong. The message has the key, its place, expected and got."""


def path_name(path: str) -> str:
    """The path with ~ replaced by the home folder. Raises ValueError if nothing can have this name."""
    if "\0" in path:
        raise ValueError(f"expected a path without zero bytes, got {path!r}")
    return os.path.expanduser(path)


Size = Annotated[int, Field(le=2**31 - 1)]
Width = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Folder = Annotated[str, AfterValidator(path_name)]
File = Annotated[str, AfterValidator(path_name)]


class Strict(BaseModel):
    """Base of every declared structure: unknown keys are errors, numbers are finite, values are frozen."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads yes, no, on and off as booleans, which pydantic would accept as 1 or 0."""
        entries = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        field = cls.model_fields.get(info.field_name or "")
        kinds = set(_leaves(field.annotation)) if field is not None else set()
        wrong = [entry for entry in entries if isinstance(entry, bool)]
        if wrong and kinds & {int, float} and bool not in kinds:
            raise ValueError(f"expected a number, got {wrong[0]} (what yes, no, on and off are in YAML, too)")
        return value

    @classmethod
    def known_keys(cls) -> list[str]:
        """All keys of this structure."""
        return list(cls.model_fields)

    @classmethod
    def kind_below(cls, key: str) -> "type[Strict] | None":
        """The declared structure under a key, if there is one."""
        field = cls.model_fields.get(key)
        return None if field is None else _kind_inside(field.annotation)


def check(kind: type[T], tree: Any, where: str) -> T:
    """Validates a tree of plain values against a Strict class; every mistake becomes one line of a ConfigError."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(kind, problem) for problem in error.errors()]
        raise ConfigError(f"{where}:\n  " + "\n  ".join(lines)) from error


def check_distinct(what: str, names: Sequence[str], why: str) -> None:
    """Raises ValueError if a name occurs twice."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{what}: expected every name once, got '{twice[0]}' {names.count(twice[0])} times; {why}")


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of a message: the known name most similar to `name`, or all known names if none is similar."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known) or 'none'}"


def _explain(kind: type[Strict], problem: Any) -> str:
    place = [str(step) for step in problem["loc"]]
    where = ".".join(place) or "top level"
    if problem["type"] == "extra_forbidden":
        return f"{where}: unknown key; {nearest(place[-1], _keys_at(kind, place[:-1]))}"
    if problem["type"] in ("model_type", "dict_type"):
        came = "nothing; remove the line, or add keys" if problem["input"] is None else repr(problem["input"])
        return f"{where}: expected a group of keys, got {came}"
    message = problem["msg"].removeprefix("Value error, ")
    came = "" if problem["type"] in ("missing", "value_error") else f", got {problem['input']!r}"
    return f"{where}: {message}{came}"


def _keys_at(kind: type[Strict], place: Sequence[str]) -> list[str]:
    """Valid names under a path of keys through nested structures, lists and mappings."""
    current: type[Strict] | None = kind
    for step in place:
        below = current.kind_below(step) if current is not None else None
        # An index of a list or a name in a mapping leads to the structure of its entries.
        current = below if below is not None or current is None or step in current.known_keys() else current
    return current.known_keys() if current is not None else []


def _leaves(annotation: Any) -> Iterator[Any]:
    """The types inside a field's annotation."""
    inner = get_args(annotation)
    return itertools.chain.from_iterable(map(_leaves, inner)) if inner else iter([annotation])


def _kind_inside(annotation: Any) -> type[Strict] | None:
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        return annotation
    found = (_kind_inside(argument) for argument in get_args(annotation))
    return next((kind for kind in found if kind is not None), None)
