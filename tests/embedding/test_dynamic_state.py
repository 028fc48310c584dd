import torch
import torch.distributed as dist
from torch import Tensor

from dist_rec.config import EmbeddingConfig
from dist_rec.embedding.dynamic_state import load_steps, state_of
from dist_rec.embedding.dynamic_tables import DynamicTables
from tests.data.open_rows import open_schema
from tests.helpers.ranks import run_ranks

CPU = torch.device("cpu")
HELD, ROWS = 600, 602


def _tables() -> DynamicTables:
    config = EmbeddingConfig.model_validate({"tables": {"item": {"admission": {"count": 2}}}})
    tables = DynamicTables(open_schema("dynamic", HELD), config)
    tables.start({}, CPU, dist.get_rank(), dist.get_world_size())
    return tables


def _state() -> tuple[dict[str, list[int]], dict[str, Tensor], set[str]]:
    """Offsets of this rank's parts, what a change of them does to the maps, and the names of weights alone."""
    tables = _tables()
    tables.steps = 9
    state = state_of(tables, training=True)
    assert state.pop("steps").tolist() == [9]
    for of in state.values():
        assert of.metadata().size == torch.Size([ROWS])
        (shard,) = of.local_shards()
        shard.tensor[3] = 7
    load_steps(tables, {"steps": torch.tensor([4])})
    assert tables.steps == 4
    load_steps(tables, {})
    assert tables.steps == 4
    waiting = tables.ids["item"].waiting
    assert waiting is not None and waiting.seen[3] == tables.ids["user"].table.count[3] == 7
    offsets = {name: [of.local_shards()[0].metadata.shard_offsets[0]] for name, of in state.items()}
    return offsets, {"ids": tables.ids["item"].table.ids}, set(state_of(tables, training=False))


def test_every_rank_has_its_slots() -> None:
    names = {f"{table}.{name}" for table in ("item", "user") for name in ("ids", "seen", "count")}
    names |= {f"item.waiting_{name}" for name in ("ids", "seen", "count")}
    for rank, (offsets, maps, alone) in enumerate(run_ranks(_state, 2)):
        assert offsets == {name: [301 * rank] for name in names} and alone == {"item.ids", "user.ids"}
        assert maps["ids"].shape == (301,) and maps["ids"][3] == 7, "views of the maps"
