"""Requests of a dataset in the columns of a server."""

from pathlib import Path

import numpy as np
import pyarrow as pa

from dist_rec.config import Config
from dist_rec.data.columns import arrow_schema
from dist_rec.export.requests import as_asked, first_requests
from dist_rec.serve.columns import serving_schema
from tests.data.requests import make_schema, make_table, seen_schema


def test_the_first_requests_are_those_of_the_files_in_order(config: Config, data: Path) -> None:
    schema = make_schema().without_labels()
    some = first_requests(config, schema, data / "test", 8)  # of row groups of 6 and 9
    every = first_requests(config, schema, data / "test", 100)
    assert (some.num_rows, every.num_rows) == (8, 15)
    assert some.equals(every.slice(0, 8))
    asked, rows = as_asked(some, schema, serving_schema(schema))
    assert asked.schema.equals(arrow_schema(serving_schema(schema)))
    assert rows.tolist() == list(range(8))
    assert asked.column("history.item").to_pylist() == some.column("history.item").to_pylist()


def test_a_candidate_that_sees_a_part_is_a_request_of_its_own() -> None:
    schema = seen_schema()
    rows = [
        {"user": 1, "history.item": [5, 6, 7], "history.correct": [0, 1, 0], "candidate.item": [8, 9]},
        {"user": 2, "history.item": [], "history.correct": [], "candidate.item": [3]},
    ]
    for row, visible in zip(rows, ([1, 3], [0]), strict=True):
        row |= {"candidate.correct": [0] * len(visible), "candidate.visible_events": visible}
    table = make_table(rows, schema)
    asked, of = as_asked(table, schema, serving_schema(schema))
    assert of.tolist() == [0, 0, 1]
    assert asked.column("user").to_pylist() == [1, 1, 2]
    assert asked.column("history.item").to_pylist() == [[5], [5, 6, 7], []]
    assert asked.column("history.correct").to_pylist() == [[0], [0, 1, 0], []]
    assert asked.column("candidate.item").to_pylist() == [[8], [9], [3]]
    assert isinstance(asked, pa.Table) and of.dtype == np.int64
