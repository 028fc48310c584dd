"""Deletes what rows have learned in a checkpoint on disk, in one process and without the data: `dist-rec purge`.

The result has the bits that `purge_rows` and saving would give. Tensors are read and written one by one, so memory
holds one shard of one table. Files are written anew: no file of the result has bytes of an old row.
"""

import io
import pickle
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from dist_rec.common.made import check_replaceable, mark, replace
from dist_rec.common.stored_file import StoredFile
from dist_rec.common.strict import ConfigError
from dist_rec.data.errors import DataError
from dist_rec.data.id_files import read_ids
from dist_rec.embedding.rows import fresh_rows, has_rows, places_of, table_of
from dist_rec.training.checkpoint import BEST, KIND, POSITION, load_position
from dist_rec.training.made_with import FILE, OPTIMIZER_STATE, MadeWith, PurgeRecord
from dist_rec.training.manifest import MANIFEST, Manifest
from dist_rec.training.purge import record_of
from dist_rec.training.safe_load import INDEX, read_index

# Parts of the optimizer's state (optim/saved.py) that come from gradients, and are dropped with the one in flight.
GRADIENTS = ("in_flight", "last", "residual")
COUNTERS = "optimizer.counters"

Sizes = Mapping[str, tuple[int, ...]]  # of tables: rows and row width


def purge_checkpoint(
    checkpoint: Path, files: Mapping[str, Path], *, out: Path | None = None, seed: int | None = None
) -> list[PurgeRecord]:
    """Resets rows of tables in a checkpoint and in the best weights inside of it; see `purge_rows` for what is reset.

    Args:
        checkpoint: a folder made by a run, of any number of ranks.
        files: table -> file of ids, see `read_ids`.
        out: folder to write; None for `checkpoint` itself, which is replaced as a whole when all is written.
        seed: of the fresh rows; None for `run.seed` of the checkpoint's recipe.

    Returns:
        The new records, which are also in `made_with.json` of the result.

    Raises:
        ConfigError: for a folder that is no whole checkpoint, of an earlier version, or with other files in it, and for
            a table that it does not have.
        DataError: for a file of ids, see `read_ids`.
        NotOurs: if `out` is there and no unchanged checkpoint.
        OSError: if the result cannot be written; nothing of it is left then.
    """
    made = MadeWith.read(checkpoint)
    sizes = _sizes(read_index(checkpoint))
    ids = _read_all(files, sizes, made)
    seed = made.recipe.run.seed if seed is None else seed
    records = [record_of(table, of, seed=seed, step=made.step) for table, of in ids.items()]
    target = checkpoint if out is None else out
    check_replaceable(target, KIND)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        temporary.chmod(0o755)
        change = _Purge(ids, sizes, made.recipe.embedding.init_scale, seed)
        _rewrite(checkpoint, temporary, records, change)
        if (checkpoint / BEST).is_dir():
            (temporary / BEST).mkdir()
            _rewrite(checkpoint / BEST, temporary / BEST, records, change)
            mark(temporary / BEST, KIND)
        mark(temporary, KIND)
        replace(target, temporary, KIND)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # not there any more if all went well
    return records


def _sizes(index: Metadata) -> dict[str, tuple[int, ...]]:
    """Rows and row width of every table of a checkpoint."""
    found = {table_of(name): entry for name, entry in index.state_dict_metadata.items() if name.startswith("model.")}
    return {table: tuple(of.size) for table, of in found.items() if table and isinstance(of, TensorStorageMetadata)}


def _read_all(files: Mapping[str, Path], sizes: Sizes, made: MadeWith) -> dict[str, Tensor]:
    for table in files:
        if table not in sizes:
            raise ConfigError(f"--ids {table}=...: expected a table of the checkpoint, one of {', '.join(sizes)}")
        if table in made.schema_.open_ids:
            kind = made.schema_.open_ids[table]
            raise ConfigError(
                f"--ids {table}=...: its ids are {kind}, so that no row belongs to an id for good; expected a table "
                "with ids: range"
            )
    # A table of ids may have a row more than ids: HIDDEN, which is nobody's. Rows of n-grams have no ids.
    numbers = {table: made.schema_.tables.get(table, rows) for table, (rows, _) in sizes.items()}
    ids = {table: torch.from_numpy(read_ids(path, numbers[table])) for table, path in files.items()}
    for table, of in ids.items():
        if not len(of):
            raise DataError(f"{files[table]}: expected at least one id to purge, got none")
    return ids


class _Purge:
    """What becomes of a tensor of a checkpoint: called with its name, its offsets in the whole, the size of the whole
    and its values, it gives new values, or None to leave them."""

    def __init__(self, ids: Mapping[str, Tensor], sizes: Sizes, init_scale: float, seed: int) -> None:
        self._ids, self._sizes, self._scale, self._seed = ids, sizes, init_scale, seed

    def __call__(self, name: str, offsets: tuple[int, ...], size: tuple[int, ...], values: Tensor) -> Tensor | None:
        kind, _, rest = name.partition(".")
        if kind == "model":
            return self._weights(table_of(rest), offsets, values)
        if kind != "optimizer":
            return None
        if name == COUNTERS:
            return _without_in_flight(values)
        part, _, rest = rest.partition(".")
        if part in GRADIENTS:
            return torch.zeros_like(values)
        if part in ("fused", "dense"):
            _, _, parameter = rest.partition(".")
            return self._state(next(_tables_in(parameter), None), offsets, size, values)
        return None

    def _weights(self, table: str | None, offsets: tuple[int, ...], values: Tensor) -> Tensor | None:
        if table is None or table not in self._ids:
            return None
        ids, (first, column) = self._ids[table], offsets
        here = (ids >= first) & (ids < first + len(values))
        if not here.any():
            return None
        fresh = fresh_rows(table, ids[here], self._sizes[table][1], init_scale=self._scale, seed=self._seed)
        values[ids[here] - first] = fresh[:, column : column + values.shape[1]].to(values.dtype)
        return values

    def _state(
        self, table: str | None, offsets: tuple[int, ...], size: tuple[int, ...], values: Tensor
    ) -> Tensor | None:
        if table is None or table not in self._ids or not has_rows(size, rows := self._sizes[table][0]):
            return None
        values[places_of(self._ids[table], rows, offsets[0], len(values))] = 0
        return values


def _tables_in(name: str) -> Iterator[str]:
    """The table whose weight's name begins the name of a state."""
    words = name.split(".")
    for end in range(1, len(words) + 1):
        if (table := table_of(".".join(words[:end]))) is not None:
            yield table


def _without_in_flight(counters: Tensor) -> Tensor:
    """Steps, applied, skipped, and whether a gradient is in flight: it is dropped, which counts as skipped."""
    steps, applied, skipped, in_flight = counters.tolist()
    return torch.tensor([steps, applied, skipped + in_flight, 0], dtype=counters.dtype)


def _rewrite(source: Path, target: Path, records: list[PurgeRecord], change: _Purge) -> None:
    """Writes a checkpoint folder with changed tensors, without `best` and the marker."""
    index, made = read_index(source), MadeWith.read(source)
    if made.optimizer_state != OPTIMIZER_STATE and any(n.startswith("optimizer.") for n in index.state_dict_metadata):
        raise ConfigError(
            f"{source}: saved by an earlier version of dist_rec, which kept the state of the optimizer in another "
            "form; expected a checkpoint of this version, or one of weights alone"
        )
    named = {str(place.relative_path) for place in (index.storage_data or {}).values()}
    for path in sorted(source.iterdir()):
        if path.name in named or path.name in (INDEX, FILE, MANIFEST, ".dist_rec.json") or path.name == BEST:
            continue
        if path.name != POSITION and not (path.name.startswith("random-") and path.suffix == ".json"):
            raise ConfigError(
                f"{path}: expected only files of a checkpoint, since any other may hold the rows; move it"
            )
        shutil.copy2(path, target / path.name)
    index.storage_data = {
        key: place for name in sorted(named) for key, place in _rewrite_file(source, target, name, index, change)
    }
    with (target / INDEX).open("wb") as file:
        pickle.dump(index, file)
    made.model_copy(update={"purged": (*made.purged, *records)}).write(target)
    requests = load_position(source).requests if (source / POSITION).is_file() else None
    files = {path.name: StoredFile.of(path) for path in target.iterdir() if path.is_file()}
    Manifest.now(made.step, requests, files).write(target)


def _rewrite_file(source: Path, target: Path, name: str, index: Metadata, change: _Purge) -> Iterator[tuple[Any, Any]]:
    """Writes one file of tensors; gives the entries of the index for it."""
    places = [(key, at) for key, at in (index.storage_data or {}).items() if str(at.relative_path) == name]
    with (source / name).open("rb") as old, (target / name).open("wb") as new:
        for key, place in sorted(places, key=lambda pair: pair[1].offset):
            old.seek(place.offset)
            content = old.read(place.length)
            try:
                values = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            except Exception as error:  # a damaged archive may raise anything
                told = " ".join(str(error).split())[:200]
                raise ConfigError(f"{source / name}: {key.fqn} is damaged: {told}; was it copied whole?") from None
            whole: Any = index.state_dict_metadata[key.fqn]
            after = change(key.fqn, tuple(key.offset or ()), tuple(whole.size), values)
            offset = new.tell()
            if after is None:
                new.write(content)
            else:
                written = io.BytesIO()
                torch.save(after.contiguous().clone(), written)  # a view would bring its whole storage
                new.write(written.getbuffer())
            yield key, changed(place, offset=offset, length=new.tell() - offset)
