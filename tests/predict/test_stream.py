"""The requests of some turns, as batches of the collator and with their keys."""

from pathlib import Path

import pytest
import torch

from dist_rec.config import Config
from dist_rec.data.errors import DataError
from dist_rec.data.plan import Rows
from dist_rec.predict.parts import Turn
from dist_rec.predict.stream import Asked, RequestStream, stream_loader
from dist_rec.training.ranks import Ranks
from dist_rec.training.splits import dataset_schema, open_split
from tests.data.requests import make_rows

TURNS = [Turn(1, Rows(4, 5), False), None, Turn(0, Rows(0, 3), True)]


def _stream(config: Config, ranks: Ranks) -> RequestStream:
    schema = dataset_schema(config).without_labels()
    return RequestStream(open_split(config, schema, ranks, ["test"], train=False), TURNS)


@pytest.mark.parametrize("workers", [0, 1])
def test_turns_come_in_order_over_the_ends_of_row_groups(config: Config, alone: Ranks, workers: int) -> None:
    found: list[Asked] = list(stream_loader(_stream(config, alone), workers))
    rows = make_rows(15, seed=2)  # what `write_dataset` wrote as the test split, in row groups of 6 and 9
    wanted = [rows[4:9], [], rows[:3]]
    assert [asked.batch.num_requests for asked in found] == [5, 0, 3]
    for asked, of in zip(found, wanted):
        assert asked.keys.num_rows == len(of)
        if of:
            assert asked.keys.column_names == ["user", "time", "candidate.item", "candidate.kind"]
            assert asked.keys.column("candidate.item").to_pylist() == [row["candidate.item"] for row in of]
            assert asked.batch.tensors["grouping_key"].tolist() == [row["user"] for row in of]
        assert torch.isnan(asked.batch.tensors["labels"]).all(), "nobody knows a label"


def test_an_error_of_the_reader_is_raised_by_its_loader(config: Config, alone: Ranks, data: Path) -> None:
    stream = _stream(config, alone)
    stream.reader.row_groups[0] = stream.reader.row_groups[0].__class__(data / "gone.parquet", 0, 6, 6)
    with pytest.raises(DataError, match=r"gone\.parquet"):
        list(stream_loader(stream, 1))
