"""A user with 10,000 events trains on the CPU, through reader, tables, LONGER, backward and both optimizers, and no
tensor is as large as a matrix over all pairs of merged events."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dist_rec.config import ParallelConfig
from dist_rec.data.writer import write_schema, write_split
from dist_rec.training.ranks import start_ranks
from tests.data.requests import make_schema, make_table
from tests.training.runs import losses, make_config, run

EVENTS, MERGE, K = 10_000, 4, 32
WIDTH, HEADS, EXPANSION, GROUP = 8, 2, 4, 2


class Largest(TorchDispatchMode):
    """Numbers of the largest tensor that any operator made, forward and backward, and which operator it was."""

    def __init__(self) -> None:
        super().__init__()
        self.numel, self.by = 0, ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.numel() > self.numel:
                self.numel, self.by = leaf.numel(), str(func)
        return result


def _write(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    row: dict[str, Any] = {"user": 1, "time": 10 * EVENTS, "searches.query": [1, 2]}
    sizes = {"item": 50, "kind": 5, "action": 4, "page": 300}
    row |= {f"history.{name}": rng.integers(0, size, EVENTS).tolist() for name, size in sizes.items()}
    row["history.time"] = np.sort(rng.integers(0, 10 * EVENTS, EVENTS)).tolist()
    row |= {"candidate.item": [3, 4], "candidate.kind": [0, 1]}
    for label in ("click", "buy"):
        row |= {f"candidate.{label}": [0, 1], f"candidate.{label}.oracle": [0.1, 0.9]}
    write_schema(folder, make_schema())
    write_split(folder / "train", make_table([row, row]), make_schema())
    return folder


def test_a_10_000_event_user_trains_without_a_quadratic_tensor(tmp_path: Path) -> None:
    longer = {"merge": MERGE, "k": K, "heads": HEADS, "ffn_expansion": EXPANSION}
    config = make_config(
        _write(tmp_path / "data"),
        tmp_path,
        data={"batch_size": 1, "valid": [], "test": []},
        model={"tokens": {"width": WIDTH, "max_positions": 2048}, "longer": longer},
    )
    with start_ranks(ParallelConfig()) as ranks, Largest() as largest:
        assert run(config, ranks).steps == 2
    assert all(np.isfinite(loss) for loss in losses(config))
    # The largest that is linear in the events: InnerTrans' feed-forward over all of them, or the token MLP.
    linear = EVENTS * WIDTH * max(EXPANSION, 12 // WIDTH + 1)
    scores = HEADS * (K + 2 * GROUP) * (EVENTS // MERGE + 2 * GROUP)
    assert 0 < largest.numel <= max(linear, scores), largest.by
    assert largest.numel < (EVENTS // MERGE) ** 2 / 10, largest.by
