"""A request with c candidates against c requests with one candidate each: same outputs, one history instead of c.

    python -m benchmarks.bench_candidates [--out benchmarks/results/FILE.md]

One rank, the quickstart's model. First the ranker alone, forward and backward on a batch of synthetic requests; then
whole training runs (reader, dedup, lookup, delayed update) on a dataset with 8 candidates per request and on the same
one apart."""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import pyarrow as pa
import torch
from rich.console import Console

from benchmarks.harness import measure_side_by_side
from dist_rec.common.provenance import provenance_lines
from dist_rec.common.strict import Strict
from dist_rec.config import CheckpointConfig, load_config
from dist_rec.data.batch import SequenceBatch
from dist_rec.data.collate import collate
from dist_rec.data.reader import RequestReader
from dist_rec.data.schema import Schema
from dist_rec.data.schema_file import load_schema
from dist_rec.data.synthetic.history import SynthConfig, synthesize
from dist_rec.data.validate import open_parquet
from dist_rec.data.writer import write_schema, write_split
from dist_rec.embedding.tables import table_dims
from dist_rec.models.layers.loss import BinaryCrossEntropy, total_loss
from dist_rec.models.ranker import Ranker
from dist_rec.training.loop import train_one
from dist_rec.training.ranks import start_ranks
from dist_rec.training.run_log import RunLog

REQUESTS = 64
RECIPE = Path(__file__).resolve().parents[1] / "launch/recipes/quickstart.yaml"


def split_candidates(table: pa.Table, candidates: int) -> pa.Table:
    """One row per candidate: the whole row repeated, with one entry of each candidate column."""
    row = [i for i in range(table.num_rows) for _ in range(candidates)]
    repeated = table.take(pa.array(row))
    for name in table.column_names:
        if name.startswith("candidate."):
            entries = table.column(name).combine_chunks().flatten()
            lists = pa.ListArray.from_arrays(pa.array(range(len(row) + 1), pa.int32()), entries)
            repeated = repeated.set_column(repeated.column_names.index(name), name, lists)
    return repeated


def step(ranker: Ranker, rows: dict[str, torch.Tensor], batch: SequenceBatch) -> torch.Tensor:
    for parameter in ranker.parameters():
        parameter.grad = None
    loss = total_loss(BinaryCrossEntropy(Strict()), ranker(rows, batch), batch.labels, batch.candidates_per_rank)
    loss.backward()
    return loss.detach()


def rows_of(batch: SequenceBatch, schema: Schema, tables: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found, layout = {}, schema.layout
    for name, of in layout.feature_sets.items():
        found[name] = torch.cat([tables[layout.tables[key]][batch.unique[key].values()] for key in of.keys], dim=1)
    return {name: value.requires_grad_() for name, value in found.items()}


def run(candidates: int, repeats: int) -> str:
    config = load_config(RECIPE)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data"
        synthesize(path, SynthConfig(requests=10 * REQUESTS, candidates=candidates))
        schema = load_schema(path)
        reader = RequestReader(folders=[path / "test"], schema=schema, batch_size=REQUESTS)
        with open_parquet(reader.row_groups[0].path, schema) as file:
            table = file.read().slice(0, REQUESTS)
    cpu = torch.device("cpu")
    together, apart = (collate(rows, schema).to(cpu) for rows in (table, split_candidates(table, candidates)))
    torch.manual_seed(0)
    ranker = Ranker(schema, config.model, table_dims(schema, config.embedding))
    tables = {name: 0.3 * torch.randn(size, config.embedding.dim) for name, size in schema.tables.items()}
    calls = {}
    losses = {}
    for name, batch in (("together", together), ("apart", apart)):
        rows = rows_of(batch, schema, tables)
        losses[name] = step(ranker, rows, batch)
        calls[name] = lambda rows=rows, batch=batch: step(ranker, rows, batch)
    times = measure_side_by_side(calls, repeats=repeats)
    samples = {name: REQUESTS * candidates / timing.p50 for name, timing in times.items()}
    difference = float((losses["together"] - losses["apart"]).abs() / losses["apart"])
    ratio = samples["together"] / samples["apart"]
    return (
        f"| {candidates} | {times['together']} | {samples['together']:,.0f} | {times['apart']} | "
        f"{samples['apart']:,.0f} | {ratio:.1f} | {difference:.0e} |"
    )


def train_both_ways(candidates: int, steps: int) -> list[str]:
    """Samples/s of training, median of the log windows, with the same number of candidates per step both ways."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        together, apart = Path(folder) / "together", Path(folder) / "apart"
        synthesize(together, SynthConfig(requests=2000, candidates=candidates))
        schema = load_schema(together)
        write_schema(apart, schema)
        for split in ("train", "valid", "test"):
            with open_parquet(next((together / split).glob("*.parquet")), schema) as file:
                write_split(apart / split, iter([split_candidates(file.read(), candidates)]), schema)
        for path, batch_size in ((together, 16), (apart, 16 * candidates)):
            config = load_config(
                RECIPE, [f"data.path={path}", f"data.batch_size={batch_size}", "data.valid=[]", "data.test=[]"]
            )
            run = config.run.model_copy(update={"max_steps": steps, "log_every": 10})
            config = config.model_copy(update={"run": run, "checkpoint": CheckpointConfig(at_end=False)})
            log_folder = Path(folder) / f"log-{path.name}"
            with (
                start_ranks(config.parallel) as ranks,
                RunLog(log_folder, is_main=True, console=Console(quiet=True)) as log,
            ):
                train_one(config, ranks, log)
            rows = [json.loads(line) for line in (log_folder / "metrics.jsonl").read_text().splitlines()]
            rate = statistics.median(row["candidates_per_s"] for row in rows[1:])
            lines.append(f"| {path.name} | {batch_size} | {rate:,.0f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--steps", type=int, default=80)
    options = parser.parse_args()
    torch.set_num_threads(1)
    lines = [
        f"# Candidates of one request together or apart ({REQUESTS} requests, quickstart model, forward and backward)",
        "",
        *provenance_lines(),
        "",
        "| candidates | together, ms p20/p50/p80 | samples/s | apart, ms | samples/s | ratio | relative loss "
        "difference |",
        "|---|---|---|---|---|---|---|",
        *(run(candidates, options.repeats) for candidates in (1, 4, 8, 32)),
        "",
        "Training, 8 candidates per request:",
        "",
        "| candidates of a request | requests per step | samples/s, median of windows of 10 steps |",
        "|---|---|---|",
        *train_both_ways(8, options.steps),
        "",
    ]
    print("\n".join(lines))
    if options.out is not None:
        options.out.write_text("\n".join(lines))


if __name__ == "__main__":
    main()
