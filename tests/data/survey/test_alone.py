from pathlib import Path
from typing import Any

import numpy as np

from dist_rec.data.survey.alone import features_alone
from dist_rec.data.writer import write_split
from tests.data.requests import make_rows, make_schema, make_table

PLAIN: dict[str, Any] = {"ids": ["item", "kind"], "side": {"shelf": 3}, "labels": ["click"]}
SCHEMA = make_schema(candidate=PLAIN)


def rows(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(5)
    found = make_rows(count)
    for row in found:
        row["candidate.shelf"] = rng.integers(0, 3, len(row["candidate.item"])).tolist()
    return found


def aucs(folder: Path, given: list[dict[str, Any]]) -> dict[str, float]:
    write_split(folder / "train", make_table(given, SCHEMA), SCHEMA)
    return {of.feature: of.auc for of in features_alone(folder / "train", SCHEMA)}


def test_noise_tells_nothing(tmp_path: Path) -> None:
    found = aucs(tmp_path, rows(600))
    assert max(found.values()) < 0.6
    assert set(found) == {
        "context.user",
        "candidate.item",
        "candidate.kind",
        "candidate.shelf",
        "place among the candidates",
        "times it is in history.item",
        "is the newest of history.item",
        "times it is in history.kind",
        "is the newest of history.kind",
        "events in history",
        "events in searches",
    }


def test_a_copied_label_is_named(tmp_path: Path) -> None:
    given = rows(300)
    for row in given:
        row["candidate.shelf"] = [2 * label for label in row["candidate.click"]]
    found = aucs(tmp_path, given)
    assert found["candidate.shelf"] == 1.0 and next(iter(found)) == "candidate.shelf"


def test_the_order_of_candidates_may_tell(tmp_path: Path) -> None:
    given = rows(300)
    for row in given:
        row["candidate.click"] = [int(place == 0) for place in range(len(row["candidate.click"]))]
    assert aucs(tmp_path, given)["place among the candidates"] == 1.0


def test_an_event_that_the_label_made_is_named(tmp_path: Path) -> None:
    """A click that is already in the history of the request it was made in."""
    given = rows(400)
    for row in given:
        items = row["candidate.item"] = list(range(40, 40 + len(row["candidate.item"])))
        clicked = [item for item, label in zip(items, row["candidate.click"], strict=True) if label]
        row["history.item"] = [item % 40 for item in row["history.item"]] + clicked
        for name in ("kind", "action", "page"):
            row[f"history.{name}"] = row[f"history.{name}"] + [0] * len(clicked)
        row["history.time"] = row["history.time"] + [row["time"]] * len(clicked)
    found = aucs(tmp_path, given)
    assert found["times it is in history.item"] == 1.0


def test_too_few_of_a_class_say_nothing(tmp_path: Path) -> None:
    given = [{**row, "candidate.click": [0] * len(row["candidate.click"])} for row in rows(50)]
    assert all(np.isnan(value) for value in aucs(tmp_path, given).values())


def test_numbers_are_features_too(tmp_path: Path) -> None:
    schema = make_schema(
        request={"grouping_key": "user", "time": "time", "numbers": {"distance": {}}},
        candidate={**PLAIN, "numbers": {"price": {}}},
    )
    given = rows(300)
    rng = np.random.default_rng(1)
    for row in given:
        row["distance"] = float(rng.random())
        row["candidate.price"] = [0.5 + label + 1e-6 * rng.random() for label in row["candidate.click"]]
        row["candidate.price"][:1] = [float("nan")] * len(row["candidate.price"][:1])
    write_split(tmp_path / "train", make_table(given, schema), schema)
    found = {of.feature: of.auc for of in features_alone(tmp_path / "train", schema)}
    assert found["candidate.price"] > 0.7 > 0.6 > found["context.distance"]
