"""Tiny datasets, recipes and ranks for the tests of training."""

import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from rich.console import Console
from torch import Tensor, nn
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

from dist_rec.config import Config
from dist_rec.data.columns import arrow_schema
from dist_rec.data.writer import write_schema
from dist_rec.door import check_run
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.training import evaluate
from dist_rec.training.checkpoint import load_checkpoint
from dist_rec.training.loop import RunResult, train_one
from dist_rec.training.metrics import TaskMetrics
from dist_rec.training.pipeline import make_optimizer, plan_model, shard_model
from dist_rec.training.ranks import Ranks
from dist_rec.training.run_log import RunLog
from dist_rec.training.splits import dataset_schema
from tests.data.requests import make_rows, make_schema, make_table

GROUPS = {"train": [8] * 6, "valid": [7, 5], "test": [6, 9]}


def write_dataset(folder: Path, groups: dict[str, list[int]] | None = None) -> Path:
    """A dataset of `make_schema()`: every split is one file with row groups of the sizes given."""
    schema = make_schema()
    write_schema(folder, schema)
    for seed, (split, sizes) in enumerate((groups or GROUPS).items()):
        table = make_table(make_rows(sum(sizes), seed))
        (folder / split).mkdir()
        with pq.ParquetWriter(folder / split / "part-00000.parquet", arrow_schema(schema)) as writer:
            start = 0
            for size in sizes:
                writer.write_table(table.slice(start, size))
                start += size
    return folder


def write_inverted(folder: Path) -> Path:
    """A dataset that trains the opposite of what it validates: scores get worse from the first validation on."""
    data = write_dataset(folder, {"train": [32] * 4, "valid": [32], "test": [32]})
    for split in ("train", "valid", "test"):
        path = data / split / "part-00000.parquet"
        table = pq.read_table(path)
        for label in ("click", "buy"):
            items = table.column("candidate.item").to_pylist()
            ones = [[int((item < 25) == (split != "train")) for item in values] for values in items]
            at = table.schema.get_field_index(f"candidate.{label}")
            table = table.set_column(at, table.schema.field(at), pa.array(ones, table.schema.field(at).type))
        pq.write_table(table, path, row_group_size=32)
    return data


def make_config(data: Path, out: Path, /, **changes: Any) -> Config:
    """A small LONGER, 6 steps an epoch on one rank; `changes` are those of Config, nested as in a recipe."""
    tree: dict[str, Any] = {
        "data": {"path": str(data), "batch_size": 8, "eval_batch_size": 5, "workers": 0},
        "model": {
            "tokens": {"width": 8, "hidden": 12, "max_positions": 16, "time_dim": 4, "side_dim": 4},
            "longer": {"merge": 2, "k": 3, "heads": 2, "inner_heads": 2},
            "head": {"hidden": [16]},
        },
        "embedding": {"dim": 8},
        "optim": {"lr": 0.01, "warmup_sync_steps": 0},
        "run": {"out": str(out), "name": "tiny", "log_every": 1},
    }
    return Config.model_validate(_merged(tree, changes))


def _merged(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    both = {
        name: _merged(tree[name], value) for name, value in changes.items() if isinstance(value, dict) and name in tree
    }
    return {**tree, **changes, **both}


def these_ranks() -> Ranks:
    """Inside `run_ranks`: this rank."""
    host, dense = dist.new_group(backend="gloo"), dist.new_group(backend="gloo")
    assert isinstance(host, dist.ProcessGroup) and isinstance(dense, dist.ProcessGroup)
    return Ranks(dist.get_rank(), dist.get_world_size(), torch.device("cpu"), host, dense)


def quiet_console() -> Console:
    return Console(file=io.StringIO())


def run(config: Config, ranks: Ranks, folder: str = "run", resume: Path | None = None) -> RunResult:
    """Trains into a folder below `config.run.out`, after the door has looked at it, as a command does."""
    check_run(config, resume, allow=["*"])
    with RunLog(Path(config.run.out) / folder, is_main=ranks.is_main, console=quiet_console()) as log:
        return train_one(config, ranks, log, resume)


def load(config: Config, ranks: Ranks, checkpoint: Path) -> tuple[nn.Module, HybridOptimizer]:
    """The sharded model and its optimizer from a checkpoint that holds both."""
    model, optimizer = fresh(config, ranks)
    load_checkpoint(checkpoint, model, optimizer, ranks)
    return model, optimizer


def fresh(config: Config, ranks: Ranks) -> tuple[nn.Module, HybridOptimizer]:
    """A sharded model as a run would start with, and its optimizer."""
    model, plan = plan_model(dataset_schema(config), config, ranks)
    sharded = shard_model(model, plan, config, ranks)
    return sharded, make_optimizer(sharded, config.optim, 6, ranks)


def evaluate_split(config: Config, model: nn.Module, ranks: Ranks, split: str = "test") -> dict[str, TaskMetrics]:
    return evaluate.evaluate_split(model, config, dataset_schema(config), [split], ranks)


def rows(config: Config, folder: str = "run", event: str = "train") -> list[dict[str, Any]]:
    """The lines of one kind in the `metrics.jsonl` of a run."""
    lines = (Path(config.run.out) / folder / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["event"] == event]


def losses(config: Config, folder: str = "run") -> list[float]:
    return [row["loss"] for row in rows(config, folder)]


def saved_weights(config: Config, folder: str = "run", checkpoint: str = "last") -> dict[str, Tensor]:
    """The whole model of a checkpoint, whatever number of ranks wrote it."""
    return saved_state(Path(config.run.out) / folder / "checkpoints" / checkpoint)["model"]


def saved_state(checkpoint: Path) -> dict[str, Any]:
    """Everything in a checkpoint, sharded tensors whole."""
    with tempfile.TemporaryDirectory() as place:
        dcp_to_torch_save(checkpoint, Path(place) / "all.pt")
        return torch.load(Path(place) / "all.pt", weights_only=True)


def assert_same_weights(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert a.keys() == b.keys() and len(a) > 0
    for name, value in a.items():
        assert torch.equal(value, b[name]), f"{name} differs by {(value - b[name]).abs().max()}"
