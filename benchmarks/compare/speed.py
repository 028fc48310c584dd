"""Training speed of the compared models: forward and backward of everything after the lookup, on one batch of each data
set, in turns, so that whatever disturbs the machine disturbs all of them."""

import csv
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.compare.families import families
from benchmarks.compare.sets import DATA
from benchmarks.compare.study import ROOT, load, size
from benchmarks.harness import measure_side_by_side
from dist_rec.common.strict import Strict
from dist_rec.config import EmbeddingConfig
from dist_rec.data.batch import SequenceBatch
from dist_rec.data.reader import RequestReader
from dist_rec.embedding.tables import table_dims
from dist_rec.models.config import ModelConfig
from dist_rec.models.layers.loss import BinaryCrossEntropy, total_loss
from dist_rec.models.ranker import Ranker

FIELDS: tuple[str, ...] = ("data", "model", "budget", "task", "seed", "samples_per_s", "p20_ms", "p50_ms", "p80_ms")


def measure(table: Path, names: list[str], without: list[str], repeats: int = 9) -> None:
    """Writes one row per data set, model and budget, but for the models `without`."""
    torch.set_num_threads(1)
    with table.open("w") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        for data in names:
            batch = _batch(data)
            steps = {
                (model, budget): _step(data, model, budget, batch)
                for budget in DATA[data].budgets
                for model in families(DATA[data])
                if model not in without
            }
            timings = measure_side_by_side({f"{m}|{b}": step for (m, b), step in steps.items()}, repeats=repeats)
            for name, timing in timings.items():
                model, _, budget = name.rpartition("|")
                milliseconds = {f"{p}_ms": f"{1e3 * getattr(timing, p):.2f}" for p in ("p20", "p50", "p80")}
                speed = f"{batch.num_candidates / timing.p50:,.0f}"
                row = {"data": data, "model": model, "budget": budget, "task": DATA[data].task, "seed": "-1"}
                writer.writerow({**row, "samples_per_s": speed, **milliseconds})
                print(data, model, budget, speed, flush=True)
            file.flush()


def _batch(data: str) -> SequenceBatch:
    """The first training batch of the data set's own size, rows in the order of the file."""
    settings = DATA[data].data
    reader = RequestReader(
        folders=[ROOT / DATA[data].folder / split for split in settings.get("train", ["train"])],
        schema=load(data),
        batch_size=settings["batch_size"],
        max_length=settings.get("max_length"),
    )
    return next(iter(reader)).to(torch.device("cpu"))


def _step(data: str, model: str, budget: str, batch: SequenceBatch) -> Callable[[], None]:
    schema = load(data)
    dims = table_dims(schema, EmbeddingConfig.model_validate(DATA[data].embedding))
    torch.manual_seed(0)
    ranker = Ranker(schema, ModelConfig.model_validate(size(data, model, budget).tree), dims)
    unique, layout = batch.unique.to_dict(), schema.layout
    rows = {
        name: torch.randn(
            len(unique[of.keys[0]].values()), sum(dims[layout.tables[key]] for key in of.keys), requires_grad=True
        )
        for name, of in layout.feature_sets.items()
    }

    def step() -> None:
        ranker.zero_grad()
        total_loss(
            BinaryCrossEntropy(Strict()), ranker(rows, batch), batch.labels, batch.candidates_per_rank
        ).backward()

    return step
