"""Feedback as numbers of 0 and 1: every number has one meaning, and nothing is lost but what is hashed."""

import numpy as np
import pyarrow as pa
import pytest

from dist_rec.data.collate import collate
from dist_rec.data.columns import arrow_schema
from dist_rec.data.later import FeedbackSchema
from dist_rec.data.schema import Schema
from dist_rec.distill import features
from dist_rec.distill.features import BUCKETS, feedback_features

# Three candidates of two requests: two events, none, three events of which two are read.
ROWS = {
    "user": [1, 2],
    "time": [1000, 2000],
    "history.item": [[5], [6, 7]],
    "candidate.item": [[3, 4], [9]],
    "candidate.click": [[1, 0], [1]],
    "candidate.feedback_events": [[2, 0], [3]],
    "feedback.item": [[3, 8], [1, 9, 2]],
    "feedback.stay": [[2, 0], [1, 1, 1]],
    "feedback.time": [[1000, 1001], [2003, 2007, 2009]],
}


def _schema(most: int = 2, side: dict[str, int] | None = None, items: int = 10) -> Schema:
    feedback = {"ids": ["item"], "side": side or {"stay": 3}, "time": True, "most": most}
    return Schema.model_validate(
        {
            "name": "few",
            "tables": {"item": items},
            "request": {"grouping_key": "user", "time": "time"},
            "sequences": [{"name": "history", "ids": ["item"]}],
            "candidate": {"ids": ["item"], "labels": ["click"], "feedback": feedback},
        }
    )


def _features(schema: Schema, rows: dict[str, list]) -> np.ndarray:
    columns = arrow_schema(schema)
    return feedback_features(collate(pa.table({name: rows[name] for name in columns.names}, columns), schema), schema)


def _where(row: np.ndarray, place: int, width: int) -> list[int]:
    return np.flatnonzero(row[1 + place * width : 1 + (place + 1) * width]).tolist()


def test_every_place_has_its_numbers() -> None:
    found, width = _features(_schema(), ROWS), 1 + 3 + BUCKETS + 10 + 2
    assert found.shape == (3, 1 + 2 * width) and found[:, 0].tolist() == [2, 0, 2] and not found[1].any()
    stay, time, item, same = 1, 4, 4 + BUCKETS, 4 + BUCKETS + 10
    assert _where(found[0], 0, width) == [0, stay + 2, time, item + 3, same + 1]  # no second passed, its own item
    assert _where(found[0], 1, width) == [0, stay, time + 2, item + 8, same]
    assert _where(found[2], 0, width) == [0, stay + 1, time + 4, item + 1, same]
    assert _where(found[2], 1, width) == [0, stay + 1, time + 6, item + 9, same + 1]


def test_later_places_share_numbers_where_there_would_be_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "MOST_COLUMNS", 90)
    found, width = _features(_schema(most=3), ROWS), 1 + 3 + BUCKETS + 10 + 2
    assert found.shape == (3, 1 + width) and found[:, 0].tolist() == [2, 0, 3]
    assert [place for place in _where(found[0], 0, width) if place < 4] == [0, 1, 3]


def test_many_values_are_hashed_and_told_by_magnitude() -> None:
    rows = {**ROWS, "feedback.stay": [[400, 0], [400, 9, 200]]}
    found = _features(_schema(most=1, side={"stay": 500}, items=1000), rows)
    width = 1 + 2 * BUCKETS + BUCKETS + BUCKETS + 2
    assert found.shape == (3, 1 + width)
    of_400 = [[at for at in _where(found[of], 0, width) if 1 <= at <= 2 * BUCKETS] for of in (0, 2)]
    assert of_400[0] == of_400[1] and of_400[0][1] == 1 + BUCKETS + int(2 * np.log2(401))


def test_of_what_is_not_declared_there_is_nothing() -> None:
    schema = _schema()
    alone = FeedbackSchema(side={"stay": 3})
    found = _features(schema.with_feedback(alone), ROWS)
    assert found.shape == (3, 1 + 4) and found.tolist() == [[1, 1, 0, 0, 1], [0] * 5, [1, 1, 0, 1, 0]]


def test_a_batch_without_feedback() -> None:
    rows = {**ROWS, "candidate.feedback_events": [[0, 0], [0]]}
    rows |= {name: [[], []] for name in ("feedback.item", "feedback.stay", "feedback.time")}
    assert not _features(_schema(), rows).any()


def test_raw_ids_of_a_small_dynamic_table_are_hashed() -> None:
    """They are no row numbers, however few the table holds."""
    schema = _schema(items=10)
    dynamic = Schema.model_validate(schema.model_dump() | {"tables": {"item": {"rows": 10, "ids": "dynamic"}}})
    raw = ROWS | {name: [[id_ - 2**62 for id_ in of] for of in ROWS[name]] for name in ROWS if name.endswith("item")}
    found = _features(dynamic, raw)
    assert found.shape[0] == 3 and found.shape[1] > _features(schema, ROWS).shape[1], "as many numbers as buckets"
