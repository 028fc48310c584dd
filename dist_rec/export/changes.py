"""What has changed since an earlier export, by comparing every row that is stored. A row that was trained on and is the
same again is no change, and one that a purge has reset is one."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from dist_rec.common.strict import ConfigError
from dist_rec.export.quantise import ROWS_AT_ONCE
from dist_rec.serve.folder import TABLES, read_model
from dist_rec.serve.load import read_tensors


def keep_changes(folder: Path, base: Path) -> None:
    """Replaces each table of an export by its rows that differ from those of the export `base`, with their numbers
    `rows` (n,) int64, ascending.

    Raises ConfigError if the two are not of one model."""
    made, before = read_model(folder), read_model(base)
    if made != before:
        raise ConfigError(f"{base}: expected an export of the same schema, model and sizes of tables, got others")
    for table in made.tables:
        path = folder / TABLES / f"{table}.safetensors"
        now, then = read_tensors(path), read_tensors(base / TABLES / f"{table}.safetensors")
        count = len(now["weight"])
        differ = torch.zeros(count, dtype=torch.bool)
        for at in range(0, count, ROWS_AT_ONCE):
            some = slice(at, at + ROWS_AT_ONCE)
            for name, of in now.items():
                # As bits: a NaN is the same as itself.
                same = of[some].contiguous().view(torch.uint8) == then[name][some].contiguous().view(torch.uint8)
                differ[some] |= ~same.view(len(differ[some]), -1).all(1)
        rows = differ.nonzero()[:, 0]
        changed = {name: of[rows] for name, of in now.items()} | {"rows": rows}
        partial = path.with_suffix(".partial")
        save_file(changed, partial)
        partial.replace(path)
