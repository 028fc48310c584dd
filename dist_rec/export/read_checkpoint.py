"""Weights of a checkpoint as plain tensors, without ranks: dense ones in memory, tables one at a time into files."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from dist_rec.common.open_ids import EXTRA_ROWS, HIDDEN_ID, dynamic_rows
from dist_rec.common.strict import ConfigError
from dist_rec.data.schema import Schema
from dist_rec.embedding.rows import table_of
from dist_rec.export.mapped import mapped_tensors
from dist_rec.export.quantise import ROWS_AT_ONCE, quantised, stored_shapes
from dist_rec.serve.folder import IDS, TABLES, TableFile
from dist_rec.serve.tables import Stored
from dist_rec.training.checkpoint import first_failure
from dist_rec.training.safe_load import SafeReader, TensorsOnly, read_index

RANKER = "model.ranker."


@dataclass(frozen=True)
class Weights:
    """The index of a checkpoint. `shapes`: of every tensor by its name there."""

    checkpoint: Path
    shapes: dict[str, TensorStorageMetadata]

    @classmethod
    def of(cls, checkpoint: Path) -> "Weights":
        """Raises ConfigError if the folder is no whole checkpoint."""
        found = read_index(checkpoint).state_dict_metadata
        return cls(checkpoint, {name: of for name, of in found.items() if isinstance(of, TensorStorageMetadata)})

    def tensors(self, into: Mapping[str, Tensor]) -> None:
        """Reads whole tensors, by their names in the checkpoint. Raises ConfigError if they are damaged."""
        state: dict[str, Any] = dict(into)
        try:
            dcp.load(state, storage_reader=SafeReader(self.checkpoint), planner=TensorsOnly(), no_dist=True)
        except (dcp.api.CheckpointException, RuntimeError, ValueError, OSError) as error:
            raise ConfigError(f"{self.checkpoint}: damaged: {first_failure(error)}") from error

    def dense(self) -> dict[str, Tensor]:
        """The weights of the ranker by their names in it."""
        names = [name for name in self.shapes if name.startswith(RANKER)]
        found = {name: torch.empty(self.shapes[name].size, dtype=self._dtype(name)) for name in names}
        self.tensors(found)
        return {name.removeprefix(RANKER): tensor for name, tensor in found.items()}

    @property
    def tables(self) -> dict[str, str]:
        """Table -> the name of its weight."""
        names = {table_of(name): name for name in self.shapes if name.startswith("model.embedding.")}
        return {table: name for table, name in names.items() if table is not None}

    def write_table(self, table: str, stored: Stored, folder: Path) -> TableFile:
        """`tables/<table>.safetensors` in a folder. Raises ConfigError as `tensors` and for a width that cannot be
        stored so."""
        name = self.tables[table]
        rows, dim = self.shapes[name].size
        path = folder / TABLES / f"{table}.safetensors"
        path.parent.mkdir(exist_ok=True)
        try:
            shapes = stored_shapes(stored, rows, dim)
        except ValueError as error:
            raise ConfigError(f"--tables {stored}: table {table}: {error}") from None
        with mapped_tensors(path, shapes) as found:
            if stored == "fp32" and self._dtype(name) == torch.float32:
                self.tensors({name: found["weight"]})
            else:
                with tempfile.TemporaryDirectory(dir=folder) as beside:
                    plain = {name: (self._dtype(name), (rows, dim))}
                    with mapped_tensors(Path(beside) / "plain", plain) as whole:
                        self.tensors(whole)
                        for at in range(0, rows, ROWS_AT_ONCE):
                            for part, of in quantised(stored, whole[name][at : at + ROWS_AT_ONCE].float()).items():
                                found[part][at : at + ROWS_AT_ONCE] = of
        return TableFile(stored=stored, rows=rows, dim=dim)

    def write_ids(self, table: str, schema: Schema, folder: Path) -> None:
        """`ids/<table>.safetensors` of a table of dynamic ids: which id has which row."""
        name = f"dynamic_ids.{table}.ids"
        (slots,) = self.shapes[name].size
        ids = torch.empty(slots, dtype=torch.int64)
        self.tensors({name: ids})
        rows = dynamic_rows(schema.tables[table])
        taken = (ids != HIDDEN_ID).nonzero()[:, 0]
        order = ids[taken].argsort()
        (folder / IDS).mkdir(exist_ok=True)
        found = {
            "ids": ids[taken][order],
            "rows": taken[order],
            "fallback": torch.tensor(rows - EXTRA_ROWS),
            "hidden": torch.tensor(rows - 1),
        }
        save_file(found, folder / IDS / f"{table}.safetensors")

    def _dtype(self, name: str) -> torch.dtype:
        return self.shapes[name].properties.dtype
