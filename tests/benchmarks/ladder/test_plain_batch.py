import numpy as np
import pytest
import torch

from benchmarks.ladder.plain_batch import collate_plain
from dist_rec.data.collate import collate
from dist_rec.data.columns import list_column, ragged_values
from tests.helpers.ladder import cut, some_requests

CPU = torch.device("cpu")


def test_has_what_the_readers_batch_has() -> None:
    requests, schema, _ = some_requests("longer", 3)
    table = cut(requests, schema, [7, 1, 0, 4])
    batch = collate_plain(table, schema, per_candidate=False, padded=False, dtype=torch.int64)
    packet = collate(table, schema).to(CPU)
    events = packet.sequences["history"]
    assert batch.lengths["history"].tolist() == events.lengths.host.tolist() == [7, 1, 0, 4]
    assert batch.longest == {"history": 7} and batch.candidates == 3
    for field in ("item", "category"):
        distinct = packet.unique[f"history.{field}"].values()
        assert torch.equal(batch.features[f"history.{field}"].values(), distinct[events.inverse.long()])
        assert torch.equal(batch.features[f"candidate.{field}"].values(), distinct[packet.candidates.inverse.long()])
    assert torch.equal(batch.side["history"]["action"], events.side["action"].long())
    assert torch.equal(batch.age["history"], events.age.long())
    assert torch.equal(batch.labels, packet.labels)


def test_padded_values_end_at_the_last_column() -> None:
    requests, schema, _ = some_requests("longer", 3)
    table = cut(requests, schema, [2, 0, 3])
    packed, padded = (
        collate_plain(table, schema, per_candidate=False, padded=padded, dtype=torch.int64) for padded in (False, True)
    )
    first, last = packed.age["history"].split([2, 3])
    assert padded.age["history"].tolist() == [[0, *first.tolist()], [0, 0, 0], last.tolist()]


def test_a_request_for_each_candidate_repeats_the_history() -> None:
    requests, schema, _ = some_requests("longer", 3)
    table = cut(requests, schema, [2, 3])
    batch = collate_plain(table, schema, per_candidate=True, padded=False, dtype=torch.int64)
    shared = collate_plain(table, schema, per_candidate=False, padded=False, dtype=torch.int64)
    assert batch.candidates == 1 and batch.lengths["history"].tolist() == [2, 2, 2, 3, 3, 3]
    first, second = shared.features["history.item"].values().split([2, 3])
    assert torch.equal(batch.features["history.item"].values(), torch.cat([first] * 3 + [second] * 3))
    assert torch.equal(batch.features["candidate.item"].values(), shared.features["candidate.item"].values())
    assert torch.equal(batch.labels, shared.labels)


def test_labels_of_a_conditional_task_are_not_defined_without_its_condition() -> None:
    requests, schema, _ = some_requests("hyformer", 2)
    batch = collate_plain(requests, schema, per_candidate=False, padded=False, dtype=torch.int64)
    torch.testing.assert_close(batch.labels, collate(requests, schema).to(CPU).labels, equal_nan=True)
    assert batch.labels.isnan().any()


def test_half_the_width_of_integers_is_half_the_bytes_but_for_labels() -> None:
    requests, schema, _ = some_requests("longer", 3)
    wide, narrow = (
        collate_plain(requests, schema, per_candidate=False, padded=False, dtype=dtype)
        for dtype in (torch.int64, torch.int32)
    )
    assert wide.nbytes - wide.labels.nbytes == 2 * (narrow.nbytes - narrow.labels.nbytes)
    moved = narrow.to(CPU)
    assert moved.nbytes == narrow.nbytes and moved.features.values().dtype == torch.int32


def test_unequal_numbers_of_candidates_are_refused() -> None:
    requests, schema, _ = some_requests("longer", 3)
    table = requests
    for number, name in enumerate(table.column_names):
        if name.startswith("candidate."):
            values = ragged_values(table, name).values[1:]
            table = table.set_column(number, name, list_column(np.array([2] + [3] * 7), values))
    with pytest.raises(ValueError, match=r"same number of candidates in all requests, got \[2 3\]"):
        collate_plain(table, schema, per_candidate=False, padded=False, dtype=torch.int64)
