"""What our parts cost, or save, in whole jobs on a CPU: processor time per training step against the stock job.

    [torchrun --nproc-per-node 2 -m | python -m] benchmarks.adoption_jobs [--steps 15] [--toy] [--out FILE.md]

The three jobs of public_jobs.py at larger sizes, tables table-wise, row-wise Adagrad for rows and Adam for the rest.
The ways of a job take their steps in turns in one process; batches are deduplicated beforehand, in a job the work of
another thread."""

import argparse
import itertools
import logging
import os
import socket
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torchrec.distributed.model_parallel import DistributedModelParallel, get_default_sharders
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from benchmarks.public_jobs import CPU, JOBS, Job, Sizes
from dist_rec.common.provenance import provenance_lines
from dist_rec.data import DedupLoader
from dist_rec.embedding import DedupEmbeddingBagCollection, DedupEmbeddingCollection
from dist_rec.optim import HybridOptimizer

SIZES = {
    "DLRM": Sizes(samples=256, width=32, most=30, rows=20_000, hidden=512),
    "BERT4Rec": Sizes(samples=32, width=64, most=100, rows=5_000),
    "two-tower": Sizes(samples=512, width=64, most=20, rows=20_000, hidden=256),
}
WAYS = {
    "stock": (False, None),
    "dedup": (True, None),
    "`sync`": (False, "sync"),
    "delayed": (False, "delayed"),
    "dedup, delayed": (True, "delayed"),
}


def _wrapped(collection: Any) -> Any:
    bags = isinstance(collection, EmbeddingBagCollection)
    return (DedupEmbeddingBagCollection if bags else DedupEmbeddingCollection)(collection)


def _adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3)


def _plan(model: torch.nn.Module) -> Any:
    world_size = dist.get_world_size()
    names = {t.name for m in model.modules() if isinstance(m, EmbeddingCollection) for t in m.embedding_configs()}
    names |= {
        t.name for m in model.modules() if isinstance(m, EmbeddingBagCollection) for t in m.embedding_bag_configs()
    }
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=world_size, compute_device="cpu", local_world_size=world_size),
        constraints={name: ParameterConstraints(sharding_types=["table_wise"]) for name in names},
    )
    return planner.collective_plan(model, get_default_sharders(), dist.group.WORLD)  # pyright: ignore[reportArgumentType]


def _step(job: Job, batches: list[Any], dedup: bool, update: Any) -> Callable[[], None]:
    model = job.model(_wrapped if dedup else lambda collection: collection)
    tables = [p for name, p in model.named_parameters() if ".embedding" in name]
    apply_optimizer_in_backward(RowWiseAdagrad, tables, {"lr": 0.01})
    plan = _plan(model)
    dmp = DistributedModelParallel(model, device=CPU, plan=plan, init_data_parallel=update is None)
    if update is None:
        dense = KeyedOptimizerWrapper(dict(in_backward_optimizer_filter(dmp.named_parameters())), _adam)
        optimizer: Any = CombinedOptimizer([dmp.fused_optimizer, dense])
    else:
        optimizer = HybridOptimizer(dmp, _adam, dense_update=update, warmup_sync_steps=0)
    source = itertools.cycle(batches)

    def step() -> None:
        optimizer.zero_grad()
        dmp(next(source))[0].backward()
        optimizer.step()

    return step


def measure(name: str, sizes: Sizes, steps: int) -> str:
    """A row of the table, on rank 0's processor time."""
    job, loader = Job(JOBS[name].kind, False, sizes), DedupLoader([])
    plain = [job.batch(seed) for seed in range(5)]
    unique = [loader.deduplicate(batch) for batch in plain]
    ways = {way: _step(job, unique if dedup else plain, dedup, update) for way, (dedup, update) in WAYS.items()}
    spent: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(steps + 2):
        for way, step in ways.items():
            start = time.process_time()
            step()
            if turn >= 2:  # warm
                spent[way].append(1e3 * (time.process_time() - start))
    middle = {way: sorted(times)[len(times) // 2] for way, times in spent.items()}
    features = plain[0].features.to_dict()
    ids = sum(len(of.values()) for of in features.values())
    distinct = sum(len(of.values().unique()) for of in features.values()) / ids
    ratios = [f"x{middle[way] / middle['stock']:.2f}" for way in ways if way != "stock"]
    cells = [name, f"{ids}", f"{distinct:.0%}", f"{middle['stock']:.1f}", *ratios]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15, help="of every way")
    parser.add_argument("--toy", action="store_true", help="sizes at which nothing is measured")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    logging.disable()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if "RANK" not in os.environ:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", **where)
    dist.init_process_group("gloo")
    rows = [measure(name, Sizes() if options.toy else SIZES[name], options.steps) for name in JOBS]
    if dist.get_rank() == 0:
        lines = [
            f"# Parts of dist_rec in whole TorchRec jobs on a CPU, {dist.get_world_size()} rank(s)",
            *("", *provenance_lines(), ""),
            f"`benchmarks.adoption_jobs --steps {options.steps}`. Processor time of a whole training step on rank 0, "
            "one",
            f"thread, median of {options.steps} steps in turns; ids per rank. Stock: DDP and TorchRec's optimizers. "
            "`sync` and",
            "delayed: `HybridOptimizer`, synchronous and delayed, without DDP.",
            "",
            f"| job | ids per batch | distinct | stock, ms | {' | '.join(list(WAYS)[1:])} |",
            f"| --- | --- | --- | --- |{' --- |' * (len(WAYS) - 1)}",
            *rows,
        ]
        text = "\n".join(lines) + "\n"
        print(text)
        if options.out:
            options.out.write_text(text)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
