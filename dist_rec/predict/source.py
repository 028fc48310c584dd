"""Where requests to predict for are, and what tells whether they have changed."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch.distributed as dist

from dist_rec.common.stored_file import StoredFile
from dist_rec.config import Config
from dist_rec.data.attribute_store import FOLDER as ATTRIBUTES
from dist_rec.data.errors import DataError
from dist_rec.data.event_store import STORE_FOLDER, folder_of
from dist_rec.data.reader import RequestReader
from dist_rec.data.schema_file import SCHEMA_FILE


def of_folder(config: Config, folder: Path) -> tuple[Config, str]:
    """The recipe with the dataset that the folder belongs to, and the folder as a split of it: a dataset itself, if it
    has a schema.yaml, with all its splits; a folder of the nearest dataset around it; otherwise a folder of Parquet
    files in the layout of the recipe's own dataset.

    Raises DataError if it is no folder."""
    place = folder.absolute()
    if not place.is_dir():
        got = "a file" if place.exists() else "nothing there"
        raise DataError(f"{folder}: expected a folder with the requests to predict for (--data), got {got}")
    data = next((above for above in (place, *place.parents) if (above / SCHEMA_FILE).is_file()), None)
    if data is None:
        return config, str(place)
    own = config.data.model_copy(update={"path": str(data)})
    return config.model_copy(update={"data": own}), str(place.relative_to(data))


def files_read(config: Config, reader: RequestReader) -> Iterator[Path]:
    """Every file that predictions depend on beside the checkpoint: of the requests, of events that are stored once, of
    attributes, and of ids that a filter acts on. A reader of one's own may read what is no file."""
    schema, data = reader.schema, config.data
    paths = list(dict.fromkeys(group.path for group in reader.row_groups))
    folders = [Path(data.path) / ATTRIBUTES] if schema.attributes else []
    once = [sequence.name for sequence in schema.sequences if sequence.once]
    for store in dict.fromkeys(folder_of(path, schema) for path in paths if once):
        folders += [store / STORE_FOLDER / name for name in once]
    paths += [path for folder in folders for path in sorted(folder.rglob("*"))]
    paths += [Path(rule.file) for rule in ([] if data.filter is None else data.filter.rules) if rule.file is not None]
    yield from (path for path in dict.fromkeys(paths) if path.is_file())


def sums_of(paths: list[Path], near: Path, group: dist.ProcessGroup) -> dict[str, StoredFile]:
    """Size and SHA-256 of each file by its path from the folder `near`. Every rank reads its share. Comm: one
    all-gather.

    Raises OSError."""
    near, rank, ranks = near.absolute(), dist.get_rank(group), dist.get_world_size(group)
    own = {os.path.relpath(path.absolute(), near): StoredFile.of(path) for path in paths[rank::ranks]}
    found: list[dict[str, StoredFile]] = [{} for _ in range(ranks)]
    dist.all_gather_object(found, own, group=group)
    return dict(sorted((name, of) for files in found for name, of in files.items()))
