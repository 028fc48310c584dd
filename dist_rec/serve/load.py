"""An export -> an engine, which is tried on the requests of the export before anybody gets it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dist_rec.common.strict import ConfigError
from dist_rec.data.attribute_store import open_attributes
from dist_rec.data.collate import Collator
from dist_rec.data.schema import Schema
from dist_rec.models.config import ModelConfig, PrecisionConfig
from dist_rec.models.halves import Halves
from dist_rec.models.ranker import Ranker
from dist_rec.serve.columns import serving_schema
from dist_rec.serve.engine import Engine
from dist_rec.serve.folder import DENSE, IDS, TABLES, Export, ModelFile, TableFile, read_model
from dist_rec.serve.reference import check_reference
from dist_rec.serve.tables import ChangedRows, DynamicRows, Int4Rows, Int8Rows, PlainRows, RowReader, Tables

Precision = Literal["fp32", "bf16"]
OF_FEEDBACK = "feedback."  # weights that training alone reads


@dataclass(frozen=True)
class Loaded:
    """An engine, what it was made from, and the farthest of its logits from those of the reference."""

    engine: Engine
    export: Export
    farthest: float


def load_export(
    folder: str | Path, *, precision: Precision = "fp32", deterministic: bool = False, verify: bool = True
) -> Loaded:
    """Every file is summed and the engine scores the requests of the reference, unless not `verify`. On a CPU.

    Raises ConfigError if the folder is no export, is damaged, or scores differently here."""
    folder = Path(folder)
    export = Export.read(folder)
    if export.base is not None:
        raise ConfigError(f"{folder}: holds what has changed since version {export.base}; expected a whole export")
    if verify:
        export.check(folder)
    engine = build_engine(folder, export.version, read_model(folder), precision, deterministic=deterministic)
    return Loaded(engine, export, check_reference(engine, folder, precision) if verify else float("nan"))


def build_engine(
    folder: Path,
    version: str,
    made: ModelFile,
    precision: Precision,
    *,
    deterministic: bool,
    before: Mapping[str, RowReader] | None = None,
) -> Engine:
    """`before`: the tables that a delta in the folder changes, by name; None: the folder is whole.

    Raises ConfigError for files that do not fit one another."""
    try:
        schema = serving_schema(Schema.model_validate(made.schema_))  # what is not read is no part of a schema
        model = ModelConfig.model_validate(made.model)
    except ValidationError as error:
        raise ConfigError(f"{folder}: damaged: {' '.join(str(error).split())}") from None
    parts = PrecisionConfig(tokens=precision, layers=precision, head="fp32")
    model = model.model_copy(update={"precision": parts})
    with torch.random.fork_rng(devices=[]):  # first weights are drawn before those of the export come
        ranker = Ranker(schema, model, {name: of.dim for name, of in made.tables.items()})
    _load(ranker, read_tensors(folder / DENSE), folder / DENSE)
    of_base = {} if before is None else before
    readers = {name: read_table(folder, name, of, of_base.get(name)) for name, of in made.tables.items()}
    collator = Collator(
        schema=schema,
        max_length=made.max_length,
        dedup=made.dedup,
        attributes=open_attributes(folder, schema),
    )
    halves = Halves(ranker.requires_grad_(False))
    return Engine(version, collator, Tables(readers, schema), halves, deterministic=deterministic)


def read_table(folder: Path, name: str, of: TableFile, before: RowReader | None = None) -> RowReader:
    """With `before` the file has the rows that change in it. Raises ConfigError if the file is not what `of` says."""
    path = folder / TABLES / f"{name}.safetensors"
    found = read_tensors(path)
    reader = _reader(found, of, path) if before is None else _changed(before, found, of, path)
    ids = folder / IDS / f"{name}.safetensors"
    if not ids.is_file():
        return reader
    found = read_tensors(ids)
    _check(found, {"ids": (None,), "rows": (None,), "fallback": (), "hidden": ()}, ids)
    return DynamicRows(reader, found["ids"], found["rows"], int(found["fallback"]), int(found["hidden"]))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, mapped into memory. Raises ConfigError if it cannot be read."""
    try:
        with safe_open(path, "pt") as file:  # pyright: ignore[reportPrivateImportUsage] - safetensors has no other
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path}: expected a file of safetensors, got: {error}") from None


def _reader(found: Mapping[str, Tensor], of: TableFile, path: Path) -> RowReader:
    width = of.dim // 2 if of.stored == "int4" else of.dim
    shapes: dict[str, tuple[int | None, ...]] = {"weight": (of.rows, width)}
    if of.stored in ("int8", "int4"):
        shapes |= {"scale": (of.rows,), "bias": (of.rows,)}
    _check(found, shapes, path)
    if of.stored == "int8":
        return Int8Rows(found["weight"], found["scale"], found["bias"])
    if of.stored == "int4":
        return Int4Rows(found["weight"], found["scale"], found["bias"])
    return PlainRows(found["weight"])


def _changed(before: RowReader, found: Mapping[str, Tensor], of: TableFile, path: Path) -> RowReader:
    _check(found, {"rows": (None,)}, path)
    at = found["rows"]
    if at.dtype != torch.int64 or (len(at) and not bool(at[0] >= 0 and at[-1] < of.rows and (at.diff() > 0).all())):
        raise ConfigError(f"{path}: expected ascending rows from 0 to {of.rows - 1}")
    before = before.reader if isinstance(before, DynamicRows) else before
    return before if len(at) == 0 else ChangedRows(before, at, _reader(found, _rows(of, len(at)), path))


def _rows(of: TableFile, count: int) -> TableFile:
    return of.model_copy(update={"rows": count})


def _check(found: Mapping[str, Tensor], shapes: Mapping[str, tuple[int | None, ...]], path: Path) -> None:
    for name, shape in shapes.items():
        got = tuple(found[name].shape) if name in found else None
        fits = got is not None and len(got) == len(shape)
        if not fits or any(want not in (None, have) for want, have in zip(shape, got or (), strict=True)):
            raise ConfigError(f"{path}: expected a tensor {name} of shape {shape}, got {got}")


def _load(ranker: Ranker, weights: dict[str, Tensor], path: Path) -> None:
    own = ranker.state_dict()
    if own.keys() != weights.keys():
        different = sorted(own.keys() ^ weights.keys())
        raise ConfigError(f"{path}: does not fit its model: {different[0]} is on one side only")
    for name, tensor in own.items():
        if tensor.shape != weights[name].shape:
            raise ConfigError(
                f"{path}: expected {name} of shape {tuple(tensor.shape)}, got {tuple(weights[name].shape)}"
            )
    ranker.load_state_dict(weights)
