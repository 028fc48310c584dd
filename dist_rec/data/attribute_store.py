"""Attributes of ids in the folder of a dataset: `attributes/<table>/<name>.npy`, one row per id of the table.

- a number: (rows,) float32, NaN where it is missing
- a vector: (rows, dim) float16
- a list: `<name>.offsets.npy` (rows + 1,) int64 from 0 on, and `<name>.values.npy`, ids of any integer type
- of a table whose ids have no range also `ids.npy` (rows,) int64, ascending: the raw id of each row. Other ids have no
  attributes. Where a recipe takes the range of a dataset's table away there is none: row i is that of id i

Files are mapped into memory, so that processes of a host share them and only what is looked up is read.

Legend: U ids.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_rec.common.id_hash import raw_ids
from dist_rec.common.made import mark
from dist_rec.data.attributes import AttributeField, every_attribute
from dist_rec.data.columns import FlatLists, Ints
from dist_rec.data.errors import DataError, one_line, reading, writing
from dist_rec.data.gather import gather
from dist_rec.data.schema import Schema
from dist_rec.data.schema_file import SCHEMA_FILE, load_schema

FOLDER = "attributes"
IDS = "ids"  # file of the raw ids; no attribute of an open table may have this name
AT_ONCE = 1_000_000  # entries that a check reads
Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class AttributeStore:
    """The attributes of a dataset, by table and name. Worker processes map the files anew.

    `ids` (U,) are raw ones, also of a hashed table."""

    folder: Path
    schema: Schema

    def __getstate__(self) -> dict[str, Any]:
        return {of.name: getattr(self, of.name) for of in fields(self)}  # without mapped files

    def numbers(self, table: str, name: str, ids: Ints) -> NDArray[np.float32]:
        """(U,) NaN where it is missing, and for HIDDEN and ids without a row."""
        array = self._files[f"{table}/{name}"]
        rows, known = self._rows(table, ids, len(array))
        found = np.full(len(ids), np.nan, np.float32)
        found[known] = array[rows]
        return found

    def vectors(self, table: str, name: str, ids: Ints) -> NDArray[np.float16]:
        """(U, dim) zeros for HIDDEN and ids without a row. Raises DataError for numbers that are not finite."""
        array = self._files[f"{table}/{name}"]
        rows, known = self._rows(table, ids, len(array))
        taken = array[rows]
        if not np.isfinite(taken).all():
            row = int(rows[~np.isfinite(taken).all(axis=1)][0])
            raise DataError(f"{self._path(table, name)}, row {row}: expected finite numbers, got {array[row]}")
        found = np.zeros((len(ids), array.shape[1]), np.float16)
        found[known] = taken
        return found

    def lists(self, table: str, name: str, ids: Ints) -> FlatLists:
        """Empty for HIDDEN and ids without a row."""
        offsets = self._files[f"{table}/{name}.offsets"]
        rows, known = self._rows(table, ids, len(offsets) - 1)
        lengths = np.zeros(len(ids), np.int64)
        lengths[known] = offsets[rows + 1] - offsets[rows]
        return FlatLists(gather(self._files[f"{table}/{name}.values"], offsets[rows], lengths[known]), lengths)

    def check(self) -> None:
        """Reads all ids, numbers and lists. Raises DataError for the first that cannot be."""
        for table in self.schema.attributes.keys() & self.schema.open_ids.keys():
            if (own := self._files.get(f"{table}/{IDS}")) is not None:
                _check_ids(own, f"{self._path(table, IDS)}")
        for table, name, of in every_attribute(self.schema):
            where = f"{self.folder / FOLDER / table / name}"
            if of.number is not None:
                _check_numbers(self._files[f"{table}/{name}"], f"{where}.npy")
            elif of.list is not None:
                offsets, values = (self._files[f"{table}/{name}.{part}"] for part in ("offsets", "values"))
                _check_offsets(offsets, len(values), f"{where}.offsets.npy")
                _check_values(values, offsets, self.schema.tables[of.list], f"{where}.values.npy")

    def _rows(self, table: str, ids: Ints, count: int) -> tuple[Ints, NDArray[np.bool_]]:
        """Of `count` rows those of the ids that have one, and which have (U,)."""
        own = self._files.get(f"{table}/{IDS}") if table in self.schema.open_ids else None
        if own is None:
            known = (ids >= 0) & (ids < count)  # HIDDEN is none of them
            return ids[known], known
        place = np.searchsorted(own, ids)
        known = place < len(own)
        known[known] = own[place[known]] == ids[known]
        return place[known], known

    def _path(self, table: str, name: str) -> Path:
        return self.folder / FOLDER / table / f"{name}.npy"

    @cached_property
    def _files(self) -> dict[str, NDArray]:
        """By "<table>/<name of the file>". Raises DataError for a file that is missing, or of another shape or type."""
        found: dict[str, NDArray] = {}
        sizes: dict[str, int] = {}
        for table in self.schema.attributes:
            if table not in self.schema.open_ids:
                sizes[table] = self.schema.tables[table]
            elif self._path(table, IDS).is_file():
                found[f"{table}/{IDS}"] = self._open(table, IDS, (None,), np.int64)
                sizes[table] = len(found[f"{table}/{IDS}"])
        for table, name, of in every_attribute(self.schema):
            rows = sizes.get(table)  # None: the first one says it
            if of.list is not None:
                offsets = self._open(table, f"{name}.offsets", (None if rows is None else rows + 1,), np.int64)
                found[f"{table}/{name}.offsets"] = offsets
                found[f"{table}/{name}.values"] = self._open(table, f"{name}.values", (None,), np.integer)
                sizes.setdefault(table, len(offsets) - 1)
                continue
            shape, kind = ((rows,), np.float32) if of.vector is None else ((rows, of.vector), np.float16)
            found[f"{table}/{name}"] = self._open(table, name, shape, kind)
            sizes.setdefault(table, len(found[f"{table}/{name}"]))
        return found

    def _open(self, table: str, name: str, shape: tuple[int | None, ...], kind: type) -> NDArray:
        path = self._path(table, name)
        expected = f"{kind.__name__} ({', '.join('any' if n is None else str(n) for n in shape)})"
        with reading(path):
            if not path.is_file():
                raise DataError(f"{path}: expected a file of {expected}, got nothing there; see write_attributes")
            try:
                found = np.lib.format.open_memmap(path, mode="r")
            except (ValueError, EOFError) as error:
                raise DataError(f"{path}: expected a file of numpy with {expected}, got: {one_line(error)}") from error
        fits = len(found.shape) == len(shape) and all(n in (None, m) for n, m in zip(shape, found.shape, strict=True))
        native = found.dtype.isnative and found.flags.c_contiguous
        if not fits or not native or not np.issubdtype(found.dtype, kind):
            raise DataError(f"{path}: expected {expected}, in the order of C, got {found.dtype} {found.shape}")
        return found.view(np.ndarray)


def open_attributes(folder: str | Path, schema: Schema) -> AttributeStore | None:
    """Of a dataset folder; None if its schema declares none. Opens every file and reads none.

    Raises DataError if a file is missing, or of another shape or type."""
    if not schema.attributes:
        return None
    store = AttributeStore(Path(folder), schema)
    own = load_schema(folder).open_ids if (Path(folder) / SCHEMA_FILE).is_file() else {}
    for table in sorted(schema.attributes.keys() & own.keys()):
        if table not in schema.open_ids:
            raise DataError(
                f"{store._path(table, IDS)}: ids of {table} are {own[table]} in this dataset, and have their "
                f"attributes by raw id; expected embedding.tables.{table}.ids: hashed or dynamic, got range"
            )
        store._open(table, IDS, (None,), np.int64)
    _ = store._files
    return store


def write_attributes(folder: str | Path, schema: Schema, table: str, arrays: Arrays, ids: Ints | None = None) -> None:
    """Writes all attributes of a table into a dataset folder, in the place of those that are there.

    Args:
        folder: of the dataset.
        schema: declares the attributes.
        table: whose ids have them.
        arrays: name -> (rows,) numbers; (rows, dim) vectors; of a list a sequence of lists, one per id, or a pair of
            offsets (rows + 1,) and values.
        ids: (rows,) of a table whose ids have no range the id of each row, any 64 bits and in any order; others that
            come later have no attributes. Otherwise None, and the rows are those of all ids from 0 on.

    Raises:
        DataError: an array is missing or does not fit, or cannot be written. Nothing is written then.
    """
    declared, rows = schema.attributes.get(table, {}), schema.tables.get(table, 0)
    order = None
    if (ids is not None) != (table in schema.open_ids):
        kind = schema.open_ids.get(table, "range")
        wanted = "no ids, since the rows are those of all ids" if ids is not None else "ids, one for each row"
        raise DataError(f"attributes of {table}: expected {wanted}, of a table with ids: {kind}")
    if ids is not None:
        ids = _raw(ids, f"attributes of {table}")
        rows, order = len(ids), np.argsort(ids)
    if set(arrays) != set(declared):
        wanted = ", ".join(declared) or "none"
        raise DataError(f"attributes of {table}: expected {wanted}, as the schema declares, got {', '.join(arrays)}")
    place, files = Path(folder) / FOLDER / table, {}
    for name, of in declared.items():
        found = _as_stored(of, arrays[name], f"attribute {name} of {table}", rows)
        if of.list is not None:
            _check_values(found[".values"], found[".offsets"], schema.tables[of.list], f"attribute {name} of {table}")
        found = found if order is None else _in_order(found, order)
        files |= {place / f"{name}{end}.npy": array for end, array in found.items()}
    if ids is not None and order is not None:
        files[place / f"{IDS}.npy"] = ids[order]
    with writing(place):
        place.mkdir(parents=True, exist_ok=True)
        partial = {path: path.with_name(f".{path.name}.partial") for path in files}
        try:
            for path, array in files.items():
                with partial[path].open("wb") as stream:
                    np.save(stream, array, allow_pickle=False)
            for path, temporary in partial.items():
                temporary.replace(path)
        finally:
            for temporary in partial.values():
                temporary.unlink(missing_ok=True)
        mark(Path(folder), "dataset", files)


def _as_stored(of: AttributeField, values: Any, what: str, rows: int) -> dict[str, NDArray]:
    """End of the file's name -> array."""
    if of.list is not None:
        offsets, flat = (np.asarray(part) for part in (values if isinstance(values, tuple) else _flattened(values)))
        if offsets.shape != (rows + 1,) or flat.ndim != 1 or any(a.dtype.kind not in "iu" for a in (offsets, flat)):
            raise DataError(
                f"{what}: expected {rows} lists of integers, got {len(offsets) - 1} of {flat.dtype} {flat.shape}"
            )
        _check_offsets(offsets, len(flat), what)
        return {".offsets": offsets.astype(np.int64), ".values": flat}
    shape, kind = ((rows,), np.float32) if of.vector is None else ((rows, of.vector), np.float16)
    given = np.asarray(values)
    if given.shape != shape or given.dtype.kind not in "fiu":
        raise DataError(f"{what}: expected numbers {shape}, got {given.dtype} {given.shape}")
    with np.errstate(over="ignore"):
        stored = given.astype(kind)
    if of.vector is None:
        _check_numbers(stored, what)
    elif not (finite := np.isfinite(stored).all(axis=1)).all():
        row = int(np.argmin(finite))
        raise DataError(f"{what}, row {row}: expected finite numbers of float16, got {given[row]}")
    return {"": stored}


def _raw(ids: Any, what: str) -> NDArray[np.int64]:
    found = np.asarray(ids)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise DataError(f"{what}: expected ids of integers (rows,), got {found.dtype} {found.shape}")
    found = raw_ids(found)
    each, count = np.unique(found, return_counts=True)
    if (twice := each[count > 1]).size:
        raise DataError(f"{what}: expected every id once, got {twice[0]} {count[count > 1][0]} times")
    return found


def _in_order(stored: dict[str, NDArray], order: Ints) -> dict[str, NDArray]:
    """The same with row `order[i]` as row i."""
    if "" in stored:
        return {"": stored[""][order]}
    offsets, values = stored[".offsets"], stored[".values"]
    starts, lengths = offsets[order], offsets[order + 1] - offsets[order]
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return {".offsets": ends, ".values": gather(values, starts, lengths)}


def _flattened(lists: Any) -> tuple[Ints, NDArray]:
    lengths = [len(of) for of in lists]
    values = np.concatenate([np.asarray(of) for of in lists if len(of)] or [np.zeros(0, np.int64)])
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]), values


def _check_ids(ids: NDArray, where: str) -> None:
    for start, part in _parts(ids[:-1]):
        after = ids[start + 1 : start + 1 + len(part)]
        if (falls := after <= part).any():
            row = start + int(np.argmax(falls))
            raise DataError(f"{where}, row {row}: expected ascending ids, got {ids[row]} and then {ids[row + 1]}")


def _check_numbers(values: NDArray, where: str) -> None:
    for start, part in _parts(values):
        if (bad := np.isinf(part)).any():
            row = int(np.argmax(bad))
            raise DataError(
                f"{where}, row {start + row}: expected a finite number of float32, or NaN where it is missing, got "
                f"{part[row]}"
            )


def _check_offsets(offsets: NDArray, count: int, where: str) -> None:
    if offsets[0] != 0 or offsets[-1] != count:
        raise DataError(
            f"{where}: expected offsets from 0 to {count}, the number of values, got {offsets[0]} to {offsets[-1]}"
        )
    for start, part in _parts(offsets[:-1]):
        after = offsets[start + 1 : start + 1 + len(part)]
        if (falls := after < part).any():
            row = start + int(np.argmax(falls))
            raise DataError(
                f"{where}, row {row}: expected offsets that do not fall, got {offsets[row]} and then {offsets[row + 1]}"
            )


def _check_values(values: NDArray, offsets: NDArray, size: int, where: str) -> None:
    for start, part in _parts(values):
        if (bad := (part < 0) | (part >= size)).any():
            entry = start + int(np.argmax(bad))
            row = int(np.searchsorted(offsets, entry, side="right")) - 1
            raise DataError(
                f"{where}, row {row}: expected ids from 0 to {size - 1}, got {values[entry]} at entry "
                f"{entry - offsets[row]}"
            )


def _parts(array: NDArray) -> Iterator[tuple[int, NDArray]]:
    """Where each part of an array begins, and the part."""
    for start in range(0, len(array), AT_ONCE):
        yield start, array[start : start + AT_ONCE]
