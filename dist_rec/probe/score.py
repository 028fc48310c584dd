"""`dist-rec filter score`: writes the scores of a probe beside the data."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from dist_rec.common.yaml_file import read_yaml
from dist_rec.data.attribute_store import FOLDER as ATTRIBUTES
from dist_rec.data.columns import CANDIDATE, list_column, ragged_values
from dist_rec.data.errors import writing
from dist_rec.data.files import data_files
from dist_rec.data.inspect import split_folders
from dist_rec.data.schema import Schema
from dist_rec.data.schema_file import SCHEMA_FILE, load_schema
from dist_rec.data.validate import open_parquet, validate
from dist_rec.data.writer import staged
from dist_rec.probe.events import sequence_of, shares_tokens
from dist_rec.probe.probe import EventProbe


def score_dataset(data: Path, probe_folder: Path, out: Path, *, force: bool = False) -> dict[str, float]:
    """Writes the dataset to `out`, which may be `data` itself, with a column `score` (float16) for the probe's
    sequence, and for the candidates if they have the same ids, and with `score: true` for both in its schema.

    Files, row groups and all other columns stay as they are; a column `score` that is there is replaced. Rows are read
    one row group at a time. The folder is complete or is not there.

    Returns:
        Share of the events above the probe's threshold, by owner.

    Raises:
        ConfigError: if the probe is none, or of other data.
        DataError: if the data cannot be read, or the folder cannot be written or replaced (see `staged`).
    """
    schema = load_schema(data)
    probe = EventProbe.load(probe_folder, schema)
    sequence = sequence_of(schema, probe.facts.sequence)
    owners = [sequence.name, *([CANDIDATE] if shares_tokens(schema, sequence) else [])]
    # The column that is written need not be there yet, and need not be right.
    plain = _with_scores(schema, owners, False)
    counts = {owner: np.zeros(2) for owner in owners}
    with staged(out, force=force) as folder:
        _copy_others(data, folder)
        for path in (file for split in split_folders(data) for file in data_files(split)[0]):
            target = folder / path.relative_to(data)
            target.parent.mkdir(parents=True, exist_ok=True)
            _score_file(path, target, plain, probe, counts)
        tree = read_yaml(data / SCHEMA_FILE)
        _declare(tree, owners)
        (folder / SCHEMA_FILE).write_text(yaml.safe_dump(tree, sort_keys=False))
        load_schema(folder)
    return {owner: float(above / max(of, 1)) for owner, (above, of) in counts.items()}


def _with_scores(schema: Schema, owners: list[str], value: bool) -> Schema:
    sequences = [of.model_copy(update={"score": value}) if of.name in owners else of for of in schema.sequences]
    candidate = schema.candidate
    candidate = candidate.model_copy(update={"score": value}) if CANDIDATE in owners else candidate
    return schema.model_copy(update={"sequences": sequences, "candidate": candidate})


def _declare(tree: dict[str, Any], owners: list[str]) -> None:
    """Sets `score: true` in a schema as it is in its file."""
    for sequence in tree["sequences"]:
        if sequence["name"] in owners:
            sequence["score"] = True
    if CANDIDATE in owners:
        tree["candidate"]["score"] = True


def _copy_others(data: Path, folder: Path) -> None:
    """Files beside the splits, such as statistics, and attributes of ids."""
    if (data / ATTRIBUTES).is_dir():
        shutil.copytree(data / ATTRIBUTES, folder / ATTRIBUTES)
    for path in data.iterdir():
        if path.is_file() and not path.name.startswith(".") and path.name != SCHEMA_FILE:
            shutil.copy2(path, folder / path.name)


def _score_file(path: Path, target: Path, schema: Schema, probe: EventProbe, counts: dict[str, Any]) -> None:
    with open_parquet(path, schema) as file, writing(target):
        writer: pq.ParquetWriter | None = None
        for index in range(file.num_row_groups):
            raw = file.read_row_group(index, use_threads=False)
            scored = _scored(raw, schema, probe, counts, f"{path}", index)
            if writer is None:
                writer = pq.ParquetWriter(target, scored.schema, compression="zstd")
            writer.write_table(scored, row_group_size=max(scored.num_rows, 1))
        if writer is None:  # a file without row groups: nothing to score
            shutil.copy2(path, target)
        else:
            writer.close()


def _scored(
    raw: pa.Table, schema: Schema, probe: EventProbe, counts: dict[str, Any], place: str, index: int
) -> pa.Table:
    """A row group as it is in the file, with the scores behind its columns."""
    if not raw.num_rows:
        return raw
    rows = validate(raw, schema, file=place, row_group=index)
    events, candidates = probe.score(rows, schema, candidates=CANDIDATE in counts)
    for owner, values in {probe.facts.sequence: events, CANDIDATE: candidates}.items():
        if owner not in counts:
            continue
        counts[owner] += [(values > probe.facts.threshold).sum(), len(values)]
        first = schema.candidate.ids[0] if owner == CANDIDATE else sequence_of(schema, owner).ids[0]
        column = list_column(ragged_values(rows, f"{owner}.{first.name}").lengths, values.astype(np.float16))
        name = f"{owner}.score"
        at = raw.schema.get_field_index(name)
        raw = raw.append_column(name, column) if at < 0 else raw.set_column(at, name, column)
    return raw
