from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.data.batch import SequenceBatch
from dist_rec.data.collate import collate
from dist_rec.data.targets import Targets
from dist_rec.kernels.unique_ids import pack_index
from tests.data.later import later_rows, later_schema
from tests.data.requests import make_rows, make_schema, make_table


def _batch() -> SequenceBatch:
    return collate(make_table(make_rows(5)), make_schema()).to(torch.device("cpu"))


def test_counts() -> None:
    rows = make_rows(5)
    batch = _batch()
    assert batch.num_candidates == sum(len(row["candidate.item"]) for row in rows)


def test_every_tensor_lives_as_long_as_a_stream_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[int] = []
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: recorded.append(id(self)))
    monkeypatch.setattr(KeyedJaggedTensor, "record_stream", lambda self, stream: recorded.append(id(self)))
    batch = _batch()
    context = pack_index(torch.arange(5), 5)
    batch = replace(batch, context=context)
    batch.record_stream(torch.Stream(device="cpu"))
    events = [batch.candidates, *batch.sequences.values()]
    leaves = [batch.unique, context.words, batch.labels, batch.oracle, batch.grouping_key, batch.candidates_per_rank]
    leaves += [
        leaf for of in events for leaf in (of.lengths.tensor, of.inverse, of.age, *of.side.values()) if leaf is not None
    ]
    assert sorted(recorded) == sorted(map(id, leaves))


def test_what_is_known_later_lives_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[int] = []
    monkeypatch.setattr(Tensor, "record_stream", lambda self, stream: recorded.append(id(self)))
    monkeypatch.setattr(KeyedJaggedTensor, "record_stream", lambda self, stream: None)
    schema = later_schema()
    table = make_table(later_rows(5), schema)
    batch = collate(table, schema, targets=Targets(now=1_150, corrected=True)).to(torch.device("cpu"))
    batch.record_stream(torch.Stream(device="cpu"))
    of = batch.feedback
    assert of is not None and of.age is not None and isinstance(of.inverse, Tensor)
    leaves = [of.lengths.tensor, of.inverse, *of.side.values(), of.age, of.twins.tensor, of.twin, of.distilled]
    leaves += [batch.observed, batch.waited]
    assert {id(leaf) for leaf in leaves} <= set(recorded)
