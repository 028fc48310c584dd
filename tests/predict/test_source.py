"""Where requests are, and what is summed up to tell whether they changed."""

import shutil
from pathlib import Path

import pytest

from dist_rec.common.stored_file import StoredFile
from dist_rec.config import Config
from dist_rec.data.errors import DataError
from dist_rec.predict.source import files_read, of_folder, sums_of
from dist_rec.training.ranks import Ranks
from dist_rec.training.splits import dataset_schema, open_split
from tests.helpers.ranks import run_ranks
from tests.training.runs import make_config, these_ranks


def test_a_folder_is_a_dataset_or_a_split_or_lies_somewhere_else(data: Path, config: Config, tmp_path: Path) -> None:
    elsewhere = config.model_copy(update={"data": config.data.model_copy(update={"path": "/nowhere"})})
    found, split = of_folder(elsewhere, data)
    assert (found.data.path, split) == (str(data), ".")
    found, split = of_folder(elsewhere, data / "test")
    assert (found.data.path, split) == (str(data), "test")
    (data / "test" / "day=1").mkdir()
    found, split = of_folder(elsewhere, data / "test" / "day=1")
    (data / "test" / "day=1").rmdir()
    assert (found.data.path, split) == (str(data), "test/day=1"), "never another dataset than the nearest"
    shutil.copytree(data / "test", tmp_path / "requests")
    found, split = of_folder(config, tmp_path / "requests")
    assert found is config and split == str(tmp_path / "requests"), "the layout is that of the recipe's dataset"


@pytest.mark.parametrize(("name", "got"), [("gone", "nothing there"), ("file", "a file")])
def test_what_is_no_folder_is_said(config: Config, tmp_path: Path, name: str, got: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=f"{name}: expected a folder with the requests .* got {got}"):
        of_folder(config, tmp_path / name)


def test_files_of_ids_that_a_filter_reads_count(data: Path, tmp_path: Path, alone: Ranks) -> None:
    (tmp_path / "bots.txt").write_text("3\n")
    rules = [{"reason": "bot", "field": "item", "file": str(tmp_path / "bots.txt")}]
    config = make_config(data, tmp_path, data={"filter": {"rules": rules}})
    reader = open_split(config, dataset_schema(config), alone, ["test"], train=False)
    assert list(files_read(config, reader)) == [data / "test" / "part-00000.parquet", tmp_path / "bots.txt"]


def _sums(paths: list[Path], near: Path) -> dict[str, StoredFile]:
    return sums_of(paths, near, these_ranks().host_group)


def test_any_number_of_ranks_finds_the_same_sums(tmp_path: Path) -> None:
    paths = [tmp_path / "in" / f"{number}.bin" for number in range(5)]
    (tmp_path / "in").mkdir()
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * number)
    wanted = {f"{number}.bin": StoredFile.of(path) for number, path in enumerate(paths)}
    for ranks in (1, 2):
        assert run_ranks(_sums, ranks, paths, tmp_path / "in") == [wanted] * ranks
    assert list(run_ranks(_sums, 1, paths[:1], tmp_path / "other")[0]) == ["../in/0.bin"]
