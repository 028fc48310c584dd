"""Small twins of the published files: the same names, columns and types."""

import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from dist_rec.config import load_config
from dist_rec.data.errors import DataError
from dist_rec.data.event_store import whole
from dist_rec.data.importers import ImportSummary
from dist_rec.data.row_reader import PARQUET
from dist_rec.data.schema_file import load_schema
from dist_rec.door import check_run
from dist_rec.registry import IMPORTERS, Part

CHINA = datetime.timezone(datetime.timedelta(hours=8))


def imported(name: str, source: Path, **options: Any) -> ImportSummary:
    return IMPORTERS.make(Part(name=name, options=options))(source, source.parent / "out", force=True)


def requests_of(out: Path, split: str) -> list[dict[str, Any]]:
    """Rows with their events."""
    schema = load_schema(out)
    table = PARQUET.read(PARQUET.row_groups(out / split, schema), schema)
    return whole(table, schema).to_pylist()


def numbers(out: Path, table: str) -> dict[Any, int]:
    return {row["value"]: row["id"] for row in pq.read_table(out / "_build" / f"{table}.parquet").to_pylist()}


def view(user: int, video: int, day: datetime.datetime, **of: int) -> dict[str, int]:
    """A row of a log of KuaiRand."""
    signals = ("is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view")
    row = {"user_id": user, "video_id": video, "date": int(f"{day:%Y%m%d}"), "hourmin": int(f"{day:%H%M}")}
    row |= {"time_ms": int(day.timestamp() * 1000)} | dict.fromkeys(signals, 0)
    row |= {"play_time_ms": 1200, "duration_ms": 9000, "profile_stay_time": 0, "comment_stay_time": 0}
    return row | {"is_profile_enter": 0, "is_rand": 0, "tab": 1} | of


@pytest.fixture
def kuairand(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()

    def at(month: int, day: int, minute: int = 0, second: int = 0) -> datetime.datetime:
        return datetime.datetime(2022, month, day, 12, minute, second, tzinfo=CHINA)

    april = [
        view(0, 7, at(4, 8), is_click=1),
        view(0, 9, at(4, 8, 0, 40), is_like=1),
        view(0, 7, at(4, 8, 2), long_view=1, is_click=1),
        view(1, 9, at(4, 9)),
    ]
    may = [view(0, 8, at(5, 2), is_click=1), view(1, 7, at(5, 4)), view(0, 9, at(5, 5)), view(1, 9, at(5, 8))]
    for name, rows in (("4_08_to_4_21", april), ("4_22_to_5_08", may)):
        pa_csv.write_csv(pa.Table.from_pylist(rows), folder / f"log_standard_{name}_pure.csv")
    random = [view(0, 8, at(4, 25), is_rand=1)]
    pa_csv.write_csv(pa.Table.from_pylist(random), folder / "log_random_4_22_to_5_08_pure.csv")
    videos = [
        {"video_id": v, "author_id": v % 2, "video_type": "NORMAL", "tag": "12,65" if v == 7 else "3"}
        for v in (7, 8, 9)
    ]
    pa_csv.write_csv(pa.Table.from_pylist(videos), folder / "video_features_basic_pure.csv")
    users = [{"user_id": u, "user_active_degree": "full_active", "is_live_streamer": 0} for u in (0, 1)]
    pa_csv.write_csv(pa.Table.from_pylist(users), folder / "user_features_pure.csv")
    return folder


def test_kuairand(kuairand: Path) -> None:
    summary = imported("kuairand", kuairand)
    assert summary.rows == {"train": 4, "valid": 2, "test": 2}, "without the videos shown at random"
    first, second, third, _ = requests_of(summary.out, "train")
    video = numbers(summary.out, "video")
    assert first["history.video"] == second["history.video"] == [], "40 seconds later the first view is not over"
    assert third["history.video"] == [video[7], video[9]] and third["history.click"] == [1, 0]
    assert third["history.like"] == [0, 1] and third["candidate.long_view"] == [1]
    assert third["candidate.video"] == [video[7]] and third["history.tag"][0] == third["candidate.tag"][0]
    check_run(load_config(summary.out / "recipe.yaml"), None)


def test_copies_for_those_who_want_them(kuairand: Path) -> None:
    out = imported("kuairand", kuairand, histories="copies").out
    assert "history.video" in pq.read_table(out / "train").column_names


def test_a_folder_without_the_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match=r"sources\.views: expected files at .*log_standard_\*\.csv, got none"):
        imported("kuairand", tmp_path / "data")
    with pytest.raises(DataError, match="expected another place than the source"):
        IMPORTERS.make(Part(name="kuairand", options={}))(tmp_path / "data", tmp_path, force=True)


@pytest.fixture
def ebnerd(tmp_path: Path) -> Path:
    folder = tmp_path / "ebnerd_demo"
    start = datetime.datetime(2023, 5, 18, 8)
    hours = datetime.timedelta(hours=1)
    behaviors = {
        "train": [(1, 10, start, [100, 101, 102], [101]), (2, 11, start + 2 * hours, [100, 102], [100])],
        "validation": [(3, 10, start + 8 * 24 * hours, [103, 100], [103]), (4, 11, start + 12 * 24 * hours, [101], [])],
    }
    histories = {
        "train": {10: [(start - 9 * hours, 100, 12.0), (start - 5 * hours, 102, None)]},
        "validation": {
            10: [(start - 5 * hours, 102, None), (start, 101, 70.0)],
            11: [(start + 2 * hours, 100, 3.0)],
        },
    }
    for split, rows in behaviors.items():
        (folder / split).mkdir(parents=True)
        columns = zip(*rows, strict=True)
        names = ("impression_id", "user_id", "impression_time", "article_ids_inview", "article_ids_clicked")
        table = pa.table(dict(zip(names, map(list, columns), strict=True)))
        table = table.append_column("device_type", pa.array([2] * len(rows), pa.int8()))
        pq.write_table(table, folder / split / "behaviors.parquet")
        of_users = [
            {
                "user_id": user,
                "impression_time_fixed": [at for at, *_ in clicks],
                "article_id_fixed": [article for _, article, _ in clicks],
                "read_time_fixed": [read for *_, read in clicks],
            }
            for user, clicks in histories[split].items()
        ]
        pq.write_table(pa.Table.from_pylist(of_users), folder / split / "history.parquet")
    articles = [{"article_id": a, "category": a % 2, "article_type": "article_default"} for a in range(100, 104)]
    pq.write_table(pa.Table.from_pylist(articles), folder / "articles.parquet")
    return folder


def test_ebnerd(ebnerd: Path) -> None:
    summary = imported("ebnerd", ebnerd)
    assert summary.rows == {"train": 2, "valid": 1, "test": 1} and summary.candidates["train"] == 5
    article = numbers(summary.out, "article")
    first, second = requests_of(summary.out, "train")
    assert first["history.article"] == [article[100], article[102]], "each click once, the one of the moment not"
    assert first["history.reading"] == [2, 0] and first["candidate.click"] == [0, 1, 0]
    assert second["history.article"] == []
    (valid,) = requests_of(summary.out, "valid")
    assert valid["history.article"] == [article[100], article[102], article[101]]
    assert valid["candidate.article"] == [0, article[100]], "an article that training does not know"
    check_run(load_config(summary.out / "recipe.yaml"), None)
