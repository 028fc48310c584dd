"""`dist-rec data migrate`: rewrites a dataset from before 0.1.0 in today's words, in its place."""

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from dist_rec.common.strict import check
from dist_rec.common.yaml_file import read_yaml
from dist_rec.data.errors import writing
from dist_rec.data.files import data_files
from dist_rec.data.inspect import split_folders
from dist_rec.data.older_words import with_todays_words
from dist_rec.data.schema import Schema
from dist_rec.data.schema_file import SCHEMA_FILE
from dist_rec.data.validate import in_todays_words, open_parquet
from dist_rec.data.writer import staged_file

BEFORE = "schema_before_0.1.0.yaml"


def migrate_dataset(folder: Path) -> list[Path]:
    """Renames columns of every file and keys of the schema, keeps a copy of the old schema; returns the changed files.

    Every file is replaced as a whole, the schema last: after an interruption the dataset can be read, and migrated
    again. Raises ConfigError for a wrong schema and DataError for a file that cannot be read or written."""
    path = folder / SCHEMA_FILE
    tree = read_yaml(path)
    today = with_todays_words(tree, str(path))
    schema = check(Schema, today, str(path))
    files = [file for split in split_folders(folder) for file in data_files(split)[0]]
    changed = [file for file in files if _rename_columns(file, schema)]
    if today != tree:
        with writing(path):
            shutil.copy2(path, folder / BEFORE)
            with staged_file(path) as temporary:
                temporary.write_text(yaml.safe_dump(today, sort_keys=False))
        changed.append(path)
    return changed


def _rename_columns(path: Path, schema: Schema) -> bool:
    """Whether the file had older names."""
    with open_parquet(path, schema) as file:
        renamed = in_todays_words(file.schema_arrow, schema)
        if renamed.names == file.schema_arrow.names:
            return False
        with (
            writing(path),
            staged_file(path) as temporary,
            pq.ParquetWriter(temporary, renamed, compression="zstd") as writer,
        ):
            for index in range(file.num_row_groups):
                writer.write_table(file.read_row_group(index).rename_columns(renamed.names))
    return True
