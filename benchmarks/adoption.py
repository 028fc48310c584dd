"""What deduplicated collections cost, or save, in a TorchRec job on a CPU: processor time per step against the plain
job.

    python -m benchmarks.adoption [--steps 15] [--out benchmarks/results/FILE.md]

One rank and one thread, TorchRec's own plan, lookup, backward and update. The ways of a case take their steps in turns
in one process; features of the host way are deduplicated beforehand, which in a job is done by a thread of its own
(last column)."""

import argparse
import itertools
import logging
import os
import socket
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.common.provenance import provenance_lines
from dist_rec.data import DedupLoader
from dist_rec.embedding import DedupEmbeddingBagCollection, DedupEmbeddingCollection

CPU, WIDTH = torch.device("cpu"), 32
MULTI_HOT = [1, 5, 20, 1, 10, 3, 8, 1, 2, 1, 1, 1, 30] * 2


@dataclass(frozen=True)
class Case:
    """`sizes`: ids per sample of every key. `power`: of the law by which ids repeat; 1 is uniform."""

    name: str
    pooled: bool
    sizes: list[int]
    samples: int
    rows: int
    power: float
    dense: bool = False
    optimizer: type[torch.optim.Optimizer] = RowWiseAdagrad

    def batch(self, generator: torch.Generator) -> KeyedJaggedTensor:
        ids = [(self.rows * torch.rand(n * self.samples, generator=generator) ** self.power).long() for n in self.sizes]
        lengths = torch.cat([torch.full((self.samples,), size) for size in self.sizes])
        return KeyedJaggedTensor([f"c{i}" for i in range(len(self.sizes))], torch.cat(ids), lengths=lengths)

    def collection(self) -> Any:
        kind: Any = EmbeddingBagConfig if self.pooled else EmbeddingConfig
        tables = [
            kind(name=f"t{i}", num_embeddings=self.rows, embedding_dim=WIDTH, feature_names=[f"c{i}"])
            for i in range(len(self.sizes))
        ]
        return (EmbeddingBagCollection if self.pooled else EmbeddingCollection)(
            tables=tables, device=torch.device("meta")
        )


CASES = [
    Case("26 bags, one id", True, [1] * 26, 256, 20_000, 6),
    Case("26 bags, 1 to 30 ids", True, MULTI_HOT, 256, 20_000, 6),
    Case("26 bags, 1 to 30 ids, Adagrad per element", True, MULTI_HOT, 256, 20_000, 6, optimizer=torch.optim.Adagrad),
    Case("26 bags, 1 to 30 ids, with an MLP (DLRM's step)", True, MULTI_HOT, 256, 20_000, 6, dense=True),
    Case("3 bags of 150 ids", True, [150] * 3, 64, 20_000, 3),
    Case("3 sequences of 150 ids, most repeat", False, [150] * 3, 64, 20_000, 6),
    Case("3 sequences of 150 ids, half repeat", False, [150] * 3, 64, 20_000, 2),
    Case("3 sequences of 150 ids, few repeat", False, [150] * 3, 64, 200_000, 1),
]


class Model(nn.Module):
    def __init__(self, made: nn.Module, case: Case) -> None:
        super().__init__()
        self.made, wide = made, WIDTH * len(case.sizes)
        self.over = nn.Sequential(nn.Linear(wide, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 1))
        self.dense = case.dense

    def forward(self, features: Any) -> Tensor:
        found: Any = self.made(features)
        if not hasattr(found, "length_per_key"):
            return torch.cat([of.values() for of in found.values()]).sum()
        return self.over(found.values()).sum() if self.dense else found.values().sum()


def _step(made: nn.Module, case: Case, batches: list[Any]) -> Callable[[], None]:
    apply_optimizer_in_backward(case.optimizer, made.parameters(), {"lr": 0.01})
    dmp, source = (
        DistributedModelParallel(Model(made, case), device=CPU, init_data_parallel=False),
        itertools.cycle(batches),
    )
    return lambda: dmp(next(source)).backward()


def measure(case: Case, steps: int) -> str:
    """A row of the table."""
    generator, loader = torch.Generator().manual_seed(1), DedupLoader([])
    plain = [case.batch(generator) for _ in range(5)]
    unique = [loader.deduplicate(batch) for batch in plain]
    wrap: Any = DedupEmbeddingBagCollection if case.pooled else DedupEmbeddingCollection
    ways = {
        "plain": _step(case.collection(), case, plain),
        "host": _step(wrap(case.collection()), case, unique),
        "device": _step(wrap(case.collection(), "device"), case, plain),
    }
    source = itertools.cycle(plain)
    ways["loader"] = lambda: loader.deduplicate(next(source))
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(steps + 2):
        for name, step in ways.items():
            start = time.process_time()
            step()
            if turn >= 2:  # warm
                spent[name].append(1e3 * (time.process_time() - start))
    middle = {name: sorted(times)[len(times) // 2] for name, times in spent.items()}
    distinct = sum(unique[0].num_unique.values()) / len(plain[0].values())
    ratios = [f"x{middle[name] / middle['plain']:.1f}" for name in ("host", "device")]
    ids = len(plain[0].values())
    cells = [case.name, f"{ids}", f"{distinct:.0%}", f"{middle['plain']:.1f}", *ratios, f"{middle['loader']:.1f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=15, help="of every way")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    logging.disable()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", **where)
    dist.init_process_group("gloo")
    lines = [
        *("# Deduplicated collections in a TorchRec job on a CPU", "", *provenance_lines(), ""),
        f"`python -m benchmarks.adoption --steps {options.steps}`. Processor time of lookup, backward and update "
        "(row-wise",
        f"Adagrad unless said), one rank, one thread, rows {WIDTH} wide, median of {options.steps} steps in turns.",
        "`loader`: what deduplicating on the host takes, in a thread of its own.",
        "",
        "| case | ids per batch | distinct | plain, ms | host | device | loader, ms |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(measure(case, options.steps) for case in CASES),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
