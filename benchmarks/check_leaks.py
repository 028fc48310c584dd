"""Does a trained model use the labels of the history, and nothing from the future? For label-per-event data.

    python -m benchmarks.check_leaks RECIPE CHECKPOINT [--set key=value] [--out benchmarks/results/FILE.md]

Three evaluations of one trained model on the test fold: as it is; with the labels of all histories permuted (across
users; the candidates' own labels untouched); and the floor, each item's label rate in the training folds. Then every
history is cut at its middle. First the events behind the cut are replaced by others, then they are removed with their
candidates; predictions before it are compared bit by bit. Removing changes the shapes of matrices, for which BLAS and
the fused attention may sum in another order, so this runs in torch's deterministic mode, which `dist_rec` extends to
them."""

import argparse
import os
from pathlib import Path

os.environ.setdefault("MKL_CBWR", "AVX2,STRICT")  # before MKL's first use, which may be an import; see DESIGN.md

import numpy as np
import pyarrow as pa
import torch

from dist_rec.common.provenance import provenance_lines
from dist_rec.common.seed import seed_everything
from dist_rec.config import Config, load_config
from dist_rec.data.collate import collate
from dist_rec.data.columns import list_column
from dist_rec.data.schema import Schema
from dist_rec.data.schema_file import load_schema
from dist_rec.data.validate import open_parquet
from dist_rec.training.checkpoint import load_checkpoint
from dist_rec.training.metrics import auc
from dist_rec.training.pipeline import plan_model, shard_model
from dist_rec.training.ranks import Ranks, start_ranks


def read(config: Config, folders: list[str], schema: Schema) -> pa.Table:
    paths = [path for folder in folders for path in sorted((Path(config.data.path) / folder).glob("*.parquet"))]
    tables = []
    for path in paths:
        with open_parquet(path, schema) as file:
            tables.append(file.read())
    return pa.concat_tables(tables).combine_chunks()


def lists(table: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Lengths and values of a list column."""
    column = table.column(name).combine_chunks()
    return np.diff(column.offsets.to_numpy()), column.flatten().to_numpy()


def replace(table: pa.Table, name: str, lengths: np.ndarray, values: np.ndarray) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, list_column(lengths, values))


def shuffle_history_labels(table: pa.Table, column: str, rng: np.random.Generator) -> pa.Table:
    lengths, values = lists(table, column)
    return replace(table, column, lengths, rng.permutation(values))


def cut_in_half(table: pa.Table) -> pa.Table:
    """The first half of every history, and the candidates that see no more than that."""
    half = lists(table, history_columns(table)[0])[0] // 2
    seen_lengths, seen = lists(table, "candidate.visible_events")
    keep_candidate = seen <= np.repeat(half, seen_lengths)
    for name in table.column_names:
        if name.startswith("candidate."):
            keep = keep_candidate
        elif name in history_columns(table):
            lengths, _ = lists(table, name)
            keep = np.concatenate([np.arange(n) < h for n, h in zip(lengths, half, strict=True)])
        else:
            continue
        lengths, values = lists(table, name)
        owner = np.repeat(np.arange(len(lengths)), lengths)
        table = replace(table, name, np.bincount(owner[keep], minlength=len(lengths)), values[keep])
    return table


def scramble_second_half(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    """Every event behind the middle replaced by an event from anywhere in the fold."""
    lengths = lists(table, history_columns(table)[0])[0]
    late = np.concatenate([np.arange(n) >= n // 2 for n in lengths])
    source = rng.integers(0, len(late), len(late))
    for name in history_columns(table):
        values = lists(table, name)[1]
        table = replace(table, name, lengths, np.where(late, values[source], values))
    return table


def history_columns(table: pa.Table) -> list[str]:
    return [name for name in table.column_names if name.startswith("history.")]


@torch.no_grad()
def predict(model: torch.nn.Module, table: pa.Table, schema: Schema) -> torch.Tensor:
    """Logits of all candidates, one request at a time, so that neighbours cannot matter."""
    model.eval()
    batches = (collate(table.slice(i, 1), schema).to(torch.device("cpu")) for i in range(table.num_rows))
    return torch.cat([model(batch)[1][1][:, 0] for batch in batches])


def check(config: Config, checkpoint: Path, ranks: Ranks) -> list[str]:
    schema = load_schema(config.data.path)
    model, plan = plan_model(schema, config, ranks)
    dmp = shard_model(model, plan, config, ranks)
    load_checkpoint(checkpoint, dmp, None, ranks)
    table, label = read(config, config.data.test, schema), schema.candidate.labels[0]
    item = schema.candidate.ids[0].name
    labels = torch.from_numpy(lists(table, f"candidate.{label}")[1].astype(np.int64))
    logits = predict(dmp, table, schema)
    shuffled = shuffle_history_labels(
        table, f"history.{next(iter(schema.sequences[0].side))}", np.random.default_rng(0)
    )
    train = read(config, config.data.train, schema)
    rate = item_rate(train, table, item, label)
    half = cut_in_half(table)
    cut = predict(dmp, half, schema)
    lengths = lists(table, "candidate.visible_events")[0]
    kept_counts = lists(half, "candidate.visible_events")[0]
    kept = np.concatenate([np.arange(n) < k for n, k in zip(lengths, kept_counts, strict=True)])
    before = logits[torch.from_numpy(kept)]
    scrambled = predict(dmp, scramble_second_half(table, np.random.default_rng(1)), schema)[torch.from_numpy(kept)]
    return [
        "| test fold | AUC |",
        "|---|---|",
        f"| as it is | {auc(logits, labels):.4f} |",
        f"| labels of all histories permuted | {auc(predict(dmp, shuffled, schema), labels):.4f} |",
        f"| no history: label rate of the item in the training folds | {auc(torch.from_numpy(rate), labels):.4f} |",
        "",
        f"{len(before)} predictions before the middle of their history:",
        f"- everything behind it replaced: {int((scrambled == before).sum())} bitwise unchanged,",
        f"- everything behind it removed: {int((cut == before).sum())} bitwise unchanged, largest difference "
        f"{float((cut - before).abs().max()):.1e}.",
    ]


def item_rate(train: pa.Table, test: pa.Table, item: str, label: str) -> np.ndarray:
    items, labels = lists(train, f"candidate.{item}")[1], lists(train, f"candidate.{label}")[1].astype(np.float64)
    wanted = lists(test, f"candidate.{item}")[1]
    size = int(max(items.max(), wanted.max())) + 1
    count, positive = np.bincount(items, minlength=size), np.bincount(items, labels, minlength=size)
    return ((positive + labels.mean()) / (count + 1))[wanted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    config = load_config(options.recipe, options.overrides)
    seed_everything(config.run.seed, deterministic=True)
    with start_ranks(config.parallel) as ranks:
        found = check(config, options.checkpoint, ranks)
        lines = [f"# Leak checks: {config.run.name}", "", *provenance_lines(), "", *found, ""]
    print("\n".join(lines))
    if options.out is not None:
        options.out.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
