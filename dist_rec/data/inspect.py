"""Statistics of a dataset folder: rows, lengths, labels, ids, and bytes to the device with and without dedup."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Table

from dist_rec.common.ngram import NgramSpec
from dist_rec.data.attribute_store import FOLDER as ATTRIBUTES
from dist_rec.data.attribute_store import AttributeStore, open_attributes
from dist_rec.data.columns import CONTEXT
from dist_rec.data.errors import DataError, reading
from dist_rec.data.event_store import STORE_FOLDER
from dist_rec.data.files import SUFFIXES, data_files, is_hidden, warn_once
from dist_rec.data.fit import sketch_numbers
from dist_rec.data.ngram.report import NgramCounter, OrderReport
from dist_rec.data.ngram.report import render as render_ngrams
from dist_rec.data.open_report import OpenTable, RawIds
from dist_rec.data.open_report import render as render_open
from dist_rec.data.reader import RequestReader
from dist_rec.data.schema import Schema
from dist_rec.data.schema_file import load_schema

BATCH_REQUESTS = 64
PERCENTILES = (10, 50, 90, 99)


@dataclass(frozen=True)
class NumberReport:
    """A number in a split; NaN where all are missing. Of ids every one counts once that occurs in the split."""

    missing: float  # share
    low: float
    mean: float
    high: float


@dataclass(frozen=True)
class SplitReport:
    """One split. Shares and bytes are means over batches of 64 requests in the order of the files."""

    name: str
    rows: int
    candidates: int
    lengths: dict[str, dict[str, float]]  # sequence -> p10, p50, p90, p99, mean, max
    label_rate: dict[str, float]  # task -> share of ones among the defined labels
    duplicate_share: float  # of events, candidates and feedback with ids: 1 - unique tokens / tokens
    bytes_per_batch: float  # host to device, as sent
    plain_bytes_per_batch: float  # as int64 KeyedJaggedTensors without dedup
    numbers: dict[str, NumberReport]  # by name, such as "history.price"


@dataclass(frozen=True)
class DatasetReport:
    """All splits, per field "history.item" the distinct ids that occur in them and the size of its table, the n-grams
    by field and order, and the tables without a range of ids."""

    name: str
    splits: list[SplitReport]
    cardinality: dict[str, tuple[int, int]]
    ngrams: list[OrderReport]
    open_tables: list[OpenTable]


def inspect_dataset(path: Path, ngram: Mapping[str, NgramSpec | None] | None = None) -> DatasetReport:
    """Reads and validates a whole dataset; `ngram` as in a recipe's `data.ngram`.

    Raises ConfigError for its schema, and DataError for its files or if it has no split."""
    schema = load_schema(path, ngram=ngram)
    folders = split_folders(Path(path))
    if not folders:
        raise DataError(f"{path}: expected at least one sub-folder with Parquet files, got none")
    sizes, grams = schema.layout.sizes, schema.layout.ngrams | schema.layout.candidate_ngrams
    raw = RawIds(schema)
    occurred = {key: np.zeros(size, dtype=bool) for key, size in sizes.items() if key not in {*grams, *raw.keys}}
    counters = [NgramCounter(of) for of in schema.layout.ngrams.values()]
    store = open_attributes(path, schema)
    splits = [_inspect_split(folder, raw, occurred, counters, store) for folder in folders]
    seen = {key: (int(ids.sum()), len(ids)) for key, ids in occurred.items()}
    seen |= {key: (len(raw.distinct(key)), schema.tables[schema.layout.tables[key]]) for key in raw.keys}
    counted = [each for counter in counters for each in counter.reports()]
    return DatasetReport(schema.name, splits, {key: seen[key] for key in sizes if key in seen}, counted, raw.reports())


def render(report: DatasetReport) -> RenderableType:
    """Tables for a terminal: one row per split, per field, per number and split, per field and order of n-grams."""
    splits = Table(title=f"{report.name}: splits")
    percentiles = [f"p{p}" for p in PERCENTILES]
    lengths = f"length {' / '.join(percentiles)} / max"
    saved = f"KiB per {BATCH_REQUESTS} requests, sent / plain"
    for header in ("split", "rows", "candidates", "label rate", lengths, "duplicates", saved):
        splits.add_column(header, justify="left" if header == "split" else "right")
    for split in report.splits:
        rates = ", ".join(f"{task} {rate:.3f}" for task, rate in split.label_rate.items())
        lines = [" / ".join(f"{of[key]:,.0f}" for key in (*percentiles, "max")) for of in split.lengths.values()]
        lengths = "\n".join(lines if len(lines) == 1 else map(" ".join, zip(split.lengths, lines)))
        sent, plain = split.bytes_per_batch / 1024, split.plain_bytes_per_batch / 1024
        saved = f"{sent:,.0f} / {plain:,.0f} ({sent / plain:.0%})"
        duplicates = f"{split.duplicate_share:.1%}"
        splits.add_row(split.name, f"{split.rows:,}", f"{split.candidates:,}", rates, lengths, duplicates, saved)
    fields = Table("field", title="distinct ids")
    fields.add_column("seen", justify="right")
    fields.add_column("table", justify="right")
    for name, (distinct, size) in report.cardinality.items():
        fields.add_row(name, f"{distinct:,}", f"{size:,}")
    more = [_render_numbers(report)] if report.splits[0].numbers else []
    more += [render_ngrams(report.ngrams, BATCH_REQUESTS)] if report.ngrams else []
    return Group(splits, fields, *more, *([render_open(report.open_tables)] if report.open_tables else []))


def split_folders(path: Path) -> list[Path]:
    """Direct sub-folders that have Parquet files, at any depth. A warning names others that look like data."""
    with reading(path):
        entries = sorted(entry for entry in path.iterdir() if not is_hidden(entry.name))
        folders = [entry for entry in entries if entry.is_dir()]
    splits = [folder for folder in folders if data_files(folder)[0]]
    for entry in entries:
        if entry in folders and entry not in splits and entry.name not in (ATTRIBUTES, STORE_FOLDER):
            warn_once(f"{entry}: not read, a folder without Parquet files")
        elif entry not in folders and entry.suffix.lower() in SUFFIXES:
            warn_once(f"{entry}: not read, a file outside of the folders of splits")
    return splits


def _inspect_split(
    folder: Path,
    raw: RawIds,
    occurred: dict[str, NDArray[np.bool_]],
    counters: list[NgramCounter],
    attributes: AttributeStore | None,
) -> SplitReport:
    """Marks in `occurred` the ids of each field that occur, and counts n-grams and raw ids."""
    schema = raw.schema
    lengths: dict[str, list[NDArray[np.int32]]] = {sequence.name: [] for sequence in schema.sequences}
    ones, defined = np.zeros((2, len(schema.candidate.labels)))
    rows = candidates = tokens = unique = nbytes = plain_bytes = batches = 0
    sets = schema.layout.feature_sets
    layout = schema.layout
    beside = (CONTEXT, *layout.id_lists, *layout.attribute_lists, *layout.ngrams, *layout.candidate_ngrams)
    first_keys = [feature_set.keys[0] for name, feature_set in sets.items() if name not in beside]
    unhashed = raw.unhashed(schema)
    for batch in RequestReader(folders=[folder], schema=unhashed, batch_size=BATCH_REQUESTS, attributes=attributes):
        labels = batch.tensors["labels"]
        for key, ids in occurred.items():
            ids[batch.ids_of(key).numpy()] = True
        for counter in [*counters, raw]:
            counter.add(batch)
        for name, parts in lengths.items():
            parts.append(batch.tensors[f"lengths.{name}"].numpy())
        ones += labels.double().nansum(0).numpy()
        defined += (~labels.isnan()).sum(0).numpy()
        rows += batch.num_requests
        candidates += batch.num_candidates
        tokens += sum(count for owner, count in batch.counts.items() if owner not in beside)
        unique += sum(batch.num_unique[key] for key in first_keys)
        nbytes += batch.nbytes - raw.saved_bytes(batch)
        plain_bytes += batch.plain_bytes
        batches += 1
    return SplitReport(
        name=folder.name,
        rows=rows,
        candidates=candidates,
        lengths={name: _summary(np.concatenate(parts)) for name, parts in lengths.items()},
        label_rate=dict(zip(schema.candidate.labels, (ones / np.maximum(1, defined)).tolist())),
        duplicate_share=1 - unique / max(1, tokens),
        bytes_per_batch=nbytes / batches,
        plain_bytes_per_batch=plain_bytes / batches,
        numbers=_numbers(folder, schema, attributes),
    )


def _numbers(folder: Path, schema: Schema, attributes: AttributeStore | None) -> dict[str, NumberReport]:
    """Reads the split once more if there are any: batches may have buckets in their place."""
    found = {}
    for name, of in sketch_numbers([folder], schema, attributes, most=0).items():
        known = of.plain.count > 0
        values = (of.low, of.plain.mean, of.high) if known else (np.nan, np.nan, np.nan)
        found[name] = NumberReport(of.missing_share, *values)
    return found


def _render_numbers(report: DatasetReport) -> Table:
    table = Table("number", "split", title="numbers")
    for header in ("missing", "min", "mean", "max"):
        table.add_column(header, justify="right")
    for name in report.splits[0].numbers:
        for split in report.splits:
            of = split.numbers[name]
            table.add_row(name, split.name, f"{of.missing:.1%}", *(f"{v:g}" for v in (of.low, of.mean, of.high)))
    return table


def _summary(lengths: NDArray[np.int32]) -> dict[str, float]:
    percentiles = {f"p{p}": float(value) for p, value in zip(PERCENTILES, np.percentile(lengths, PERCENTILES))}
    return percentiles | {"mean": float(lengths.mean()), "max": float(lengths.max())}
