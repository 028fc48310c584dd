from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dist_rec.data.errors import DataError
from dist_rec.data.filter.config import FilterConfig
from dist_rec.data.filter.report import filter_report, render
from tests.data.requests import make_dataset, make_rows, make_schema

RULES = [
    {"reason": "sensitive", "field": "item", "values": list(range(10))},
    {"reason": "privacy", "field": "user", "values": [3, 4]},
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("report") / "data", 30)


def _report(data: Path, **config: Any) -> Any:
    (split,) = filter_report(data, make_schema(), FilterConfig.model_validate({"rules": RULES, **config}))
    return split


def test_it_counts_what_the_rules_say(data: Path) -> None:
    rows = make_rows(30)
    split = _report(data, actions={"sensitive": "drop"})
    assert (split.name, split.requests, split.users) == ("train", 30, 30)
    assert split.events == sum(len(row["history.item"]) + len(row["searches.query"]) for row in rows)
    sensitive = [[item < 10 for item in row["history.item"]] for row in rows]
    candidates = [[item < 10 for item in row["candidate.item"]] for row in rows]
    users = sum(any(events) or any(of) for events, of in zip(sensitive, candidates, strict=True))
    assert split.by_reason["sensitive"] == (sum(map(sum, sensitive)), sum(map(sum, candidates)), users)
    of_both = [len(rows[u]["history.item"]) + len(rows[u]["searches.query"]) for u in (3, 4)]
    assert split.by_reason["privacy"][0] == sum(of_both)
    assert split.by_action["drop"][0] == split.by_reason["sensitive"][0]
    kept = split.by_action["keep"]
    assert sum(events for events, _, _ in split.by_action.values()) == split.events
    assert kept[1] + split.by_action["drop"][1] + split.by_action["hide"][1] == split.candidates
    # Without candidates too: training leaves such a request out.
    assert split.untrained == sum(row["user"] in (3, 4) or all(of) for row, of in zip(rows, candidates, strict=True))


def test_examples_name_their_place(data: Path) -> None:
    split = _report(data)
    assert len([line for line in split.examples if line.startswith("sensitive: ")]) == 3
    assert "part-00000.parquet, row group 0, row" in split.examples[0] and "history entry" in split.examples[0]
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render([split]))
    assert "requests left out" in (text := console.export_text()) and "sensitive" in text


def test_a_folder_without_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least one sub-folder"):
        filter_report(tmp_path, make_schema(), FilterConfig.model_validate({"rules": RULES}))
