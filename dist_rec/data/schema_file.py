"""Reads `schema.yaml` of a dataset folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dist_rec.common.choices import Encoding
from dist_rec.common.ngram import NgramSpec
from dist_rec.common.open_ids import IdKind
from dist_rec.common.strict import ConfigError, check
from dist_rec.common.yaml_file import read_yaml
from dist_rec.data.kinds import numbers_of_tree
from dist_rec.data.older_words import with_todays_words
from dist_rec.data.schema import Schema

SCHEMA_FILE = "schema.yaml"


def load_schema(
    folder: str | Path,
    leave_out: Sequence[str] = (),
    *,
    hidden: bool = False,
    ngram: Mapping[str, NgramSpec | None] | None = None,
    numbers: Mapping[str, Encoding] | None = None,
    ids: Mapping[str, tuple[int | None, IdKind | None]] | None = None,
) -> Schema:
    """The schema of a dataset folder without what `leave_out` names of the request, with HIDDEN if `hidden`,
    with other n-grams at the fields "<sequence>.<field>" of `ngram`, None takes them away, with other encodings of
    `numbers`, by the names of `named_numbers`, and with other numbers and kinds of ids in the tables of `ids`, None for
    those of the file.

    Raises ConfigError if the schema is missing or wrong, or has nothing of such a name."""
    path = Path(folder) / SCHEMA_FILE
    missing = (
        "no such file; expected a dataset folder, made by `dist-rec data synth`, by `dist-rec data import`, or from "
        "your own Parquet files with a schema.yaml beside them (docs/data.md)"
    )
    tree = with_todays_words(read_yaml(path, missing), str(path))
    schema = check(Schema, tree | {"hidden": True} if hidden else tree, str(path))
    if ids:
        schema = check(Schema, _with_ids(schema, ids), f"{path} with embedding.tables of the recipe")
    if ngram:
        schema = check(Schema, _with_ngrams(schema, ngram, path), f"{path} with data.ngram of the recipe")
    if numbers:
        schema = check(Schema, _with_encodings(schema, numbers, path), f"{path} with data.numbers of the recipe")
    known = [*(field.name for field in schema.context), *schema.request.numbers, *schema.request.lists]
    for name in leave_out:
        if name not in known:
            there = ", ".join(known) or "none"
            raise ConfigError(f"data.leave_out: '{name}' is no context field of {path}; these are: {there}")
    left_out = {f"context.{name}" for name in leave_out}
    groups = {name: [of for of in fields if of not in left_out] for name, fields in schema.feature_groups.items()}
    context = [field for field in schema.context if field.name not in leave_out]
    kinds = {"numbers": schema.request.numbers, "lists": schema.request.lists}
    left = {kind: {name: of for name, of in found.items() if name not in leave_out} for kind, found in kinds.items()}
    update = {
        "context": context,
        "request": schema.request.model_copy(update=left),
        "feature_groups": {name: fields for name, fields in groups.items() if fields},
    }
    return schema.model_copy(update=update)


def _with_ids(schema: Schema, ids: Mapping[str, tuple[int | None, IdKind | None]]) -> dict[str, Any]:
    tables: dict[str, Any] = dict(schema.tables)
    for name, (rows, kind) in ids.items():
        if name in tables:  # the tables of a recipe are checked when they are made
            kind = kind or schema.open_ids.get(name, "range")
            tables[name] = {"rows": rows or tables[name], "ids": kind}
    return schema.model_dump() | {"tables": tables}


def _with_encodings(schema: Schema, numbers: Mapping[str, Encoding], path: Path) -> dict[str, Any]:
    tree = schema.model_dump()
    fields = numbers_of_tree(tree)
    for name, encoding in numbers.items():
        if name not in fields:
            there = ", ".join(fields) or "none"
            raise ConfigError(f"data.numbers: '{name}' is no number of {path}; these are: {there}")
        fields[name]["encoding"] = encoding
    return tree


def _with_ngrams(schema: Schema, ngram: Mapping[str, NgramSpec | None], path: Path) -> dict[str, Any]:
    tree = schema.model_dump()
    fields = {f"{of['name']}.{field['name']}": field for of in tree["sequences"] for field in of["ids"]}
    for name, spec in ngram.items():
        if name not in fields:
            raise ConfigError(
                f"data.ngram: '{name}' is no field of a sequence of {path}; these are: {', '.join(fields)}"
            )
        fields[name]["ngram"] = None if spec is None else spec.model_dump()
    return tree
