"""A deletion request from its arrival to the end of the run: after the purge nothing holds the ids any more, neither
batches that are read ahead nor what is trained later."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_rec.config import Config, ParallelConfig
from dist_rec.data.host_batch import HostBatch
from dist_rec.embedding.rows import fresh_rows
from dist_rec.training.made_with import MadeWith
from dist_rec.training.purge_checkpoint import purge_checkpoint
from dist_rec.training.ranks import Ranks, start_ranks
from dist_rec.training.run_log import RunLog
from dist_rec.training.setup import open_run
from tests.training.runs import make_config, quiet_console, run, saved_state, write_dataset

KEYS = ("history.item", "candidate.item")
DELETED = list(range(0, 50, 4))


def _config(data: Path, out: Path, file: Path, action: str) -> Config:
    rule = {"field": "item", "file": str(file), "reason": "unlearn"}
    return make_config(
        data,
        out,
        data={"batch_size": 4, "workers": 2, "filter": {"actions": {"unlearn": action}, "rules": [rule]}},
        run={"max_steps": 8, "eval_every": 100},
        checkpoint={"every_steps": 4},
    )


def _items(batch: HostBatch) -> set[int]:
    """The ids of items in the buffer of a batch."""
    unique = batch.to(torch.device("cpu")).unique
    return {i for key in KEYS if key in unique.keys() for i in unique[key].values().tolist()}  # noqa: SIM118


@pytest.fixture
def alone() -> Iterator[Ranks]:
    with start_ranks(ParallelConfig()) as ranks:
        yield ranks


@pytest.mark.parametrize("action", ["hide", "keymask", "drop"])
def test_nothing_holds_the_ids_after_a_purge(tmp_path: Path, alone: Ranks, action: str) -> None:
    data, file = write_dataset(tmp_path / "data"), tmp_path / "deleted.txt"
    file.write_text("")  # nobody has asked yet
    config = _config(data, tmp_path, file, action)
    run(config, alone)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-4"

    def opened(folder: str, resume: Path | None) -> Any:
        log = RunLog(tmp_path / folder, is_main=True, console=quiet_console())
        return open_run(config, alone, log, resume)

    before = iter(opened("before", checkpoint).loader)
    held = _items(next(before))  # its workers have read ahead

    file.write_text("\n".join(map(str, DELETED)) + "\n")
    old = saved_state(checkpoint)["model"]["embedding.collections.dim_8.embeddings.item.weight"][DELETED]
    purge_checkpoint(checkpoint, {"item": file})

    held |= {item for batch in before for item in _items(batch)}
    assert held & set(DELETED), "a loader from before the request goes on with what it had: it has to go"
    batches = list(opened("after", checkpoint).loader)
    assert batches and not {item for batch in batches for item in _items(batch)} & set(DELETED)

    run(config, alone, "resumed", resume=checkpoint)
    state = saved_state(tmp_path / "resumed" / "checkpoints" / "step-8")
    weight = state["model"]["embedding.collections.dim_8.embeddings.item.weight"]
    assert torch.equal(weight[DELETED], fresh_rows("item", torch.tensor(DELETED), 8, init_scale=0.05, seed=0))
    assert not torch.equal(weight[DELETED], old)
    (momentum,) = (of for name, of in _flat(state["optimizer"]["fused"]) if name.endswith("item.momentum1"))
    assert not momentum[DELETED].any() and momentum.any(), "nothing trained them again"
    assert [of.table for of in MadeWith.read(tmp_path / "resumed" / "checkpoints" / "last").purged] == ["item"]


def _flat(tree: Any, above: str = "") -> list[tuple[str, torch.Tensor]]:
    if isinstance(tree, torch.Tensor):
        return [(above, tree)]
    return [leaf for name, below in tree.items() for leaf in _flat(below, f"{above}.{name}")]
