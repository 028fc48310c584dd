"""Does an export give the trainer's scores, and what do stored tables cost?

    python -m benchmarks.bench_export RECIPE --checkpoint DIR [--data DIR] [--requests 10000] [--set KEY=VALUE ...]

Scores the first requests of a folder by the trainer's forward, by exports with tables of every kind, and by states of
users to which the newest events were appended. Prints rows of a table: the farthest logit from the trainer's, the AUC
of each task, and the bytes of the tables."""

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from dist_rec.common.auc import auc
from dist_rec.common.provenance import provenance_lines
from dist_rec.config import Config, load_config
from dist_rec.data.columns import CANDIDATE, one_array, ragged_values
from dist_rec.data.schema import Schema
from dist_rec.export.requests import as_asked, first_requests
from dist_rec.export.write import Wanted, export_model
from dist_rec.predict.columns import LOGIT
from dist_rec.predict.predictor import load_model
from dist_rec.serve.columns import event_columns, filled, newest, serving_schema
from dist_rec.serve.engine import Engine
from dist_rec.serve.load import load_export
from dist_rec.serve.tables import Stored
from dist_rec.training.evaluate import served_schema

STORED: tuple[Stored, ...] = ("fp32", "fp16", "int8", "int4")
AT_ONCE = 64  # requests
APPENDED = 5  # events


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder of requests, by default the first test split")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(options.recipe, options.overrides)
    data = options.data or Path(config.data.path) / [*config.data.test, *config.data.valid][0]
    print("\n".join(provenance_lines()), flush=True)
    for line in rows(config, options.checkpoint, data, options.requests):
        print(line, flush=True)


def rows(config: Config, checkpoint: Path, data: Path, count: int) -> Iterator[str]:
    """Lines of a Markdown table."""
    schema = served_schema(config, checkpoint)
    labelled = first_requests(config, schema, data, count)
    served = serving_schema(schema)
    asked, _ = as_asked(labelled, schema, served)
    labels = [
        one_array(labelled, f"{CANDIDATE}.{task}").flatten().to_numpy(zero_copy_only=False).astype(np.float64)
        for task in schema.candidate.labels
    ]
    known = [_known(schema, task, labels) for task in range(len(labels))]
    with load_model(checkpoint, config, device="cpu") as model:
        found = model.predict(labelled, logits=True)
        columns = [
            found.column(f"{LOGIT}.{task}").combine_chunks().flatten().to_numpy() for task in served.candidate.labels
        ]
    trainer = torch.from_numpy(np.stack(columns, 1))
    tasks = " | ".join(f"AUC {task}" for task in schema.candidate.labels)
    yield f"{labelled.num_rows:,} requests, {len(trainer):,} candidates, as {asked.num_rows:,} requests of a server"
    yield ""
    yield f"| scores of | farthest logit | {tasks} | tables |"
    yield "|---|---|" + "---|" * (len(labels) + 1)

    def line(name: str, logits: Tensor, size: int | None) -> str:
        aucs = [f"{auc(logits[of, task].double().numpy(), labels[task][of]):.5f}" for task, of in enumerate(known)]
        away = float((logits - trainer).abs().max())
        return f"| {name} | {away:.1e} | {' | '.join(aucs)} | {'' if size is None else f'{size / 2**20:.2f} MiB'} |"

    yield line("trainer", trainer, None)
    with tempfile.TemporaryDirectory() as folder:
        for stored in STORED:
            out = Path(folder) / stored
            export_model(config, checkpoint, Wanted(out, data, stored))
            engine = load_export(out).engine
            size = sum(path.stat().st_size for path in (out / "tables").iterdir())
            yield line(f"export, tables in {stored}", whole(engine, asked), size)
            if stored == "fp32":
                yield line(f"the same, the newest {APPENDED} events appended", in_pieces(engine, asked), size)


def whole(engine: Engine, requests: pa.Table) -> Tensor:
    starts = range(0, requests.num_rows, AT_ONCE)
    return torch.cat([engine.score_whole(requests.slice(at, AT_ONCE).combine_chunks()).logits for at in starts])


def in_pieces(engine: Engine, requests: pa.Table) -> Tensor:
    """States from the older events, an hour before where there are times, then the newest ones appended."""
    found = []
    for at in range(0, requests.num_rows, AT_ONCE):
        some = requests.slice(at, AT_ONCE).combine_chunks()
        old, new = _cut(some, engine.schema)
        time = engine.schema.request.time
        times = some.column(time).to_pylist() if time is not None else [0] * some.num_rows
        if time is not None:
            old = old.set_column(old.schema.get_field_index(time), time, some.column(time))
        found.append(engine.score(engine.append(engine.encode(old), new, times), some).logits)
    return torch.cat(found)


def _cut(requests: pa.Table, schema: Schema) -> tuple[pa.Table, pa.Table]:
    """Requests without the newest events of each sequence, and those."""
    new = newest(requests.select(event_columns(schema)), schema, APPENDED)
    old = {}
    for name in event_columns(schema):
        of = ragged_values(requests, name)
        keep = (of.lengths - APPENDED).clip(min=0)
        values = [of.values[start : start + n] for start, n in zip(of.offsets, keep, strict=False)]
        offsets = pa.array(np.concatenate([[0], np.cumsum(keep)]).astype(np.int32))
        flat = pa.array(np.concatenate(values)).cast(requests.schema.field(name).type.value_type)
        old[name] = pa.ListArray.from_arrays(offsets, flat)
    return filled(old, requests.num_rows, schema), new


def _known(schema: Schema, task: int, labels: list[np.ndarray]) -> np.ndarray:
    """(C,) where the label of a task is defined."""
    name = schema.candidate.labels[task]
    known = ~np.isnan(labels[task])
    if name in schema.candidate.given:
        known &= labels[schema.candidate.labels.index(schema.candidate.given[name])] == 1
    return known


if __name__ == "__main__":
    main()
