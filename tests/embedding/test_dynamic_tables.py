from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.common.open_ids import HIDDEN_ID, AdmissionConfig, EvictionConfig
from dist_rec.common.strict import ConfigError
from dist_rec.config import EmbeddingConfig
from dist_rec.embedding.dynamic_tables import DynamicTables, Renewal, dynamic_tables, start_dynamic_ids
from dist_rec.embedding.rows import RankRows, fresh_rows
from tests.data.open_rows import open_schema, raw_id
from tests.embedding.id_simulation import Simulation
from tests.helpers.ranks import run_ranks

CPU = torch.device("cpu")
HELD, ROWS = 600, 602  # two buckets
KEYS = ("context.user", "history.item", "history.kind", "searches.query")


def _tables(rank: int = 0, ranks: int = 1, **tables: Any) -> DynamicTables:
    schema = open_schema("dynamic", HELD)
    made = DynamicTables(schema, EmbeddingConfig.model_validate({"tables": tables}))
    made.start({name: _rows(name, ROWS // ranks) for name in made.held}, CPU, rank, ranks)
    return made


def _rows(table: str, count: int) -> RankRows:
    return RankRows(table, torch.full((count, 4), 9.0), [torch.full((count,), 9.0)], init_scale=0.5, seed=3)


def _features(**ids: list[int]) -> KeyedJaggedTensor:
    by_key = {key: ids.get(key.split(".")[1], [0, 1]) for key in KEYS}
    return KeyedJaggedTensor(
        keys=list(by_key),
        values=torch.tensor([id_ for of in by_key.values() for id_ in of], dtype=torch.int64),
        lengths=torch.tensor([len(of) for of in by_key.values()]),
        stride=1,
        length_per_key=[len(of) for of in by_key.values()],
    )


def _ids(*numbers: int) -> list[int]:
    return [raw_id(number) for number in numbers]


def test_only_dynamic_keys_change() -> None:
    tables, features = _tables(), _features(item=_ids(3, 1, 3, 9), user=_ids(1), query=[8])
    found = tables(features)
    assert found.keys() == list(KEYS) and found.stride() == 1
    assert found.length_per_key() == features.length_per_key() == [1, 4, 2, 1]
    assert found["history.kind"].values().tolist() == [0, 1] and found["searches.query"].values().tolist() == [8]
    items = found["history.item"].values()
    assert items[0] == items[2] and len(items.unique()) == 3 and int(items.max()) < HELD
    simulation = Simulation(HELD, EvictionConfig(), AdmissionConfig())
    expected = simulation.learn(set(_ids(3, 1, 9)), 0)
    assert items.tolist() == [expected[id_] for id_ in _ids(3, 1, 3, 9)]


def test_fields_of_one_table_share_its_ids() -> None:
    clicked = {"name": "clicks", "ids": [{"name": "clicked", "table": "item"}]}
    schema = open_schema("dynamic", HELD, sequences=[{"name": "history", "ids": ["item", "kind"]}, clicked])
    tables = DynamicTables(schema, EmbeddingConfig())
    assert tables.keys == {"item": ["history.item", "clicks.clicked"], "user": ["context.user"]}


def test_hidden_events_and_ids_without_a_row() -> None:
    tables = _tables(item={"admission": {"count": 2}})
    first, again = (tables(_features(item=[HIDDEN_ID, *_ids(5, 6)]))["history.item"].values() for _ in range(2))
    assert first.tolist() == [ROWS - 1, ROWS - 2, ROWS - 2], "the ids still wait, and share the fallback row"
    assert again[0] == ROWS - 1 and int(again[1:].max()) < HELD and again[1] != again[2]
    assert HIDDEN_ID not in tables.renewal[0].waiting[1]["item"][1]


def test_evaluation_changes_nothing() -> None:
    tables = _tables()
    known = tables(_features(item=_ids(5, 6)))["history.item"].values().tolist()
    tables.renewal[0].waiting.clear()
    before = {name: of.table.ids.clone() for name, of in tables.ids.items()}
    tables.eval()
    found = tables(_features(item=[*_ids(6, 7, 5), HIDDEN_ID]))["history.item"].values().tolist()
    assert found == [known[1], ROWS - 2, known[0], ROWS - 1]
    tables.renewal[0].eval()
    tables.renewal[0]()
    assert tables.steps == 1 and not tables.renewal[0].waiting
    assert all(torch.equal(of.table.ids, before[name]) for name, of in tables.ids.items())


def test_rows_are_reset_when_their_batch_comes() -> None:
    """A pipeline is a batch ahead: rows of the second batch must not change before its turn."""
    tables = _tables()
    renewal, rows = tables.renewal[0], tables.renewal[0].rows["item"]
    one, two = (tables(_features(item=_ids(*of)))["history.item"].values() for of in ((5, 6), (6, 7)))
    renewal()
    assert torch.equal(rows.weight[one], fresh_rows("item", torch.tensor(_ids(5, 6)), 4, init_scale=0.5, seed=3))
    assert rows.states[0][one].tolist() == [0.0, 0.0] and rows.weight[two[1]].tolist() == [9.0] * 4
    rows.weight[two[0]] = 7.0  # as if it had learned
    renewal()
    assert torch.equal(rows.weight[two[1:]], fresh_rows("item", torch.tensor(_ids(7)), 4, init_scale=0.5, seed=3))
    assert rows.weight[two[0]].tolist() == [7.0] * 4 and not renewal.waiting
    assert (rows.weight == 9.0).all(1).sum() == ROWS - 3, "no other row"


def test_empty_batches() -> None:
    tables = _tables()
    found = tables(_features(item=[], user=[], kind=[], query=[]))
    assert found.values().numel() == 0
    tables.renewal[0]()
    assert tables.steps == 1 and tables.ids["item"].uses.tolist() == [0] * 6


def _two_ranks(steps: list[list[list[int]]]) -> tuple[list[list[int]], list[int], list[int]]:
    rank = dist.get_rank()
    tables = _tables(rank, 2, item={"eviction": {"policy": "lfu"}})
    found = [tables(_features(item=of[rank], user=[rank]))["history.item"].values().tolist() for of in steps]
    return found, tables.ids["item"].table.ids.tolist(), tables.ids["item"].uses.tolist()


def test_two_ranks_have_the_rows_of_one() -> None:
    generator = torch.Generator().manual_seed(0)
    steps = [[_ids(*torch.randint(0, 1500, (400,), generator=generator).tolist()) for _ in range(2)] for _ in range(6)]
    steps.append([[], _ids(1, 2)])
    (first, low, used), (second, high, also_used) = run_ranks(_two_ranks, 2, steps)
    simulation = Simulation(HELD, EvictionConfig(policy="lfu"), AdmissionConfig())
    for step, (mine, other) in enumerate(steps):
        expected = simulation.learn(set(mine) | set(other), step)
        for ids, found in ((mine, first[step]), (other, second[step])):
            rows = [expected[id_] for id_ in ids]
            assert found == [ROWS - 2 if row < 0 else row for row in rows]
    slots = [simulation.slots[slot].id if slot in simulation.slots else HIDDEN_ID for slot in range(ROWS)]
    assert low + high == slots
    assert [a + b for a, b in zip(used, also_used, strict=True)] == simulation.uses and simulation.uses[3] > 100


def test_before_they_are_started() -> None:
    tables = DynamicTables(open_schema("dynamic"), EmbeddingConfig())
    with pytest.raises(RuntimeError, match="table item: its ids are not there yet; expected start_dynamic_ids"):
        tables(_features(item=[1]))
    with pytest.raises(ConfigError, match="3 ranks"):
        _tables(0, 3)
    model = nn.ModuleDict({"other": nn.Linear(2, 2), "renewal": Renewal()})
    assert dynamic_tables(model.modules()) is None and dynamic_tables([tables]) is tables
    start_dynamic_ids(model, init_scale=0.1, seed=0, rank=0, ranks=1)
    assert not tables.state_dict() and not list(tables.buffers()), "nothing that a rank could send to others"
