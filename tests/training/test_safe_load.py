"""Checkpoints from anywhere: nothing in any of their files is run, and whatever is not whole is said."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.training.checkpoint import load_checkpoint, load_position
from dist_rec.training.evaluate import evaluate_checkpoint
from dist_rec.training.made_with import MadeWith
from dist_rec.training.ranks import Ranks
from dist_rec.training.safe_load import INDEX, SafeReader, TensorsOnly, read_index
from tests.training.runs import fresh, make_config, run


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.mark}'",)


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    from dist_rec.config import ParallelConfig
    from dist_rec.training.ranks import start_ranks

    out = tmp_path_factory.mktemp("made")
    config = make_config(data, out, checkpoint={"every_steps": 2}, run={"max_steps": 2, "select_best": "logloss"})
    with start_ranks(ParallelConfig()) as ranks:
        run(config, ranks)
    return config, out / "run" / "checkpoints" / "step-2"


@pytest.fixture
def copied(made: tuple[Config, Path], tmp_path: Path) -> Path:
    shutil.copytree(made[1], tmp_path / "copy")
    return tmp_path / "copy"


def _files(made: tuple[Config, Path]) -> list[str]:
    return [path.name for path in sorted(made[1].iterdir()) if path.is_file()]


def test_a_payload_in_any_file_is_not_run(
    made: tuple[Config, Path], copied: Path, alone: Ranks, tmp_path: Path
) -> None:
    """In the place of each file, and as a torch archive of it, however the checkpoint is used."""
    config, mark = made[0], tmp_path / "ran"
    names = _files(made)
    assert {INDEX, "made_with.json", "position.json", "random-0-of-1.json", "manifest.json", "__0_0.distcp"} <= set(
        names
    )
    runs = iter(range(100))
    for name in names:
        whole = (copied / name).read_bytes()
        torch.save(Payload(mark), tmp_path / "archive")
        for spoilt in (pickle.dumps(Payload(mark)), (tmp_path / "archive").read_bytes()):
            (copied / name).write_bytes(spoilt)
            for use in (
                lambda: evaluate_checkpoint(config, copied, "test", alone),
                lambda: run(config, alone, f"again-{next(runs)}", resume=copied),
            ):
                try:
                    use()
                except ConfigError as error:
                    assert str(copied) in str(error)
            assert not mark.exists(), f"{name} was run"
        (copied / name).write_bytes(whole)


def test_an_entry_that_is_no_tensor_is_not_unpickled(copied: Path, tmp_path: Path) -> None:
    """DCP would unpickle what the index calls bytes; here the index is refused, and the planner would refuse it,
    too."""
    mark, folder = tmp_path / "ran", tmp_path / "bytes"
    dcp.save({"model": {"weight": Payload(mark)}}, checkpoint_id=folder, no_dist=True)
    with pytest.raises(ConfigError, match=r"expected tensors only, got model.weight, which is BytesStorageMetadata"):
        read_index(folder)
    with pytest.raises(dcp.api.CheckpointException, match=r"model.weight of the checkpoint is no tensor"):
        reader = dcp.FileSystemReader(folder)
        dcp.load({"model": {"weight": None}}, storage_reader=reader, planner=TensorsOnly(), no_dist=True)
    assert not mark.exists()


@pytest.mark.parametrize(
    "value",
    [Payload(Path("never")), eval, torch.nn.Linear(1, 1), Metadata, {"a": os.path}, getattr],
    ids=["payload", "eval", "module", "class", "no pickle", "getattr"],
)
def test_only_the_classes_of_an_index_are_made(value: Any, copied: Path) -> None:
    try:
        (copied / INDEX).write_bytes(pickle.dumps(value))
    except TypeError:
        (copied / INDEX).write_bytes(b"cos.path\nexists\n.")
    with pytest.raises(ConfigError, match="expected the index of a DCP checkpoint, got"):
        read_index(copied)


def _cut(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[: (folder / name).stat().st_size // 2]
    )


def _scrambled(folder: Path) -> None:
    whole = bytearray((folder / "__0_0.distcp").read_bytes())
    whole[100:4000] = bytes(3900)
    (folder / "__0_0.distcp").write_bytes(whole)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut(INDEX), "damaged or incomplete"),
        (_cut("__0_0.distcp"), "damaged or incomplete: expected [0-9]+ bytes in __0_0.distcp, got [0-9]+"),
        (lambda folder: (folder / "__0_0.distcp").unlink(), "expected [0-9]+ bytes in __0_0.distcp, got nothing there"),
        (_scrambled, "damaged or incomplete"),
        (lambda folder: (folder / INDEX).write_bytes(b""), "damaged or incomplete"),
        (lambda folder: (folder / INDEX).unlink(), "not a checkpoint"),
    ],
    ids=["index cut", "data cut", "data gone", "data scrambled", "index empty", "index gone"],
)
def test_what_is_not_whole_is_said(
    damage: Callable[[Path], Any], message: str, made: tuple[Config, Path], copied: Path, alone: Ranks
) -> None:
    damage(copied)
    model, optimizer = fresh(made[0], alone)
    with pytest.raises(ConfigError, match=message) as caught:
        load_checkpoint(copied, model, optimizer, alone)
    assert str(copied) in str(caught.value) and "another recipe" not in str(caught.value)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd"])
def test_files_outside_of_the_folder_are_not_read(copied: Path, name: str) -> None:
    index = read_index(copied)
    first = next(iter(index.storage_data.values()))
    first.relative_path = name
    (copied / INDEX).write_bytes(pickle.dumps(index))
    with pytest.raises(ConfigError, match=r"expected plain files of its own folder"):
        read_index(copied)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"requests": "many"}', "\x80"])
def test_a_damaged_position_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "position.json").write_text(text)
    with pytest.raises(ConfigError, match=r"position.json: damaged or incomplete"):
        load_position(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"ranks": 1}', "\x80"])
def test_a_damaged_account_of_itself_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "made_with.json").write_text(text)
    with pytest.raises(ConfigError, match=r"made_with.json: damaged, or of another version"):
        MadeWith.read(tmp_path)


def test_the_reader_gives_what_dcps_own_gives(copied: Path) -> None:
    mine, theirs = SafeReader(copied).read_metadata(), dcp.FileSystemReader(copied).read_metadata()
    assert mine.state_dict_metadata == theirs.state_dict_metadata and mine.storage_data == theirs.storage_data
    assert not any(isinstance(entry, BytesStorageMetadata) for entry in mine.state_dict_metadata.values())


def _no_chunks(index: Metadata) -> None:
    for entry in index.state_dict_metadata.values():
        entry.chunks = []  # pyright: ignore[reportAttributeAccessIssue]


def _one_chunk_less(index: Metadata) -> None:
    name = next(name for name in index.state_dict_metadata if name.endswith("item.weight"))
    entry: Any = index.state_dict_metadata[name]
    entry.chunks[0].sizes = torch.Size([entry.size[0] - 1, entry.size[1]])


def _nowhere(index: Metadata) -> None:
    index.storage_data = {}


def _texts(index: Metadata) -> None:
    index.storage_data = dict.fromkeys(index.storage_data, "a")


def _numbers(index: Metadata) -> None:
    index.state_dict_metadata = dict(enumerate(index.state_dict_metadata.values()))  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("change", [_no_chunks, _one_chunk_less, _nowhere, _texts, _numbers])
def test_an_index_that_does_not_store_everything_is_refused(copied: Path, change: Callable[[Metadata], None]) -> None:
    index = read_index(copied)
    change(index)
    (copied / INDEX).write_bytes(pickle.dumps(index))
    with pytest.raises(ConfigError, match=r"expected (the index of a DCP checkpoint|tensors only)"):
        read_index(copied)


def test_a_pickle_changes_no_class(copied: Path) -> None:
    """BUILD may set attributes of whatever stands on the stack; on a class that would change it for the whole
    process."""
    before = Path.is_file
    (copied / INDEX).write_bytes(b"\x80\x02cpathlib\nPosixPath\nN}X\x07\x00\x00\x00is_fileK\x01s\x86b.")
    with pytest.raises(ConfigError, match="a pickle that changes"):
        read_index(copied)
    assert Path.is_file is before and "is_file" not in vars(type(Path()))


@pytest.mark.parametrize(
    "change",
    [
        {"data": {}},
        {"data": []},
        {"run": {}},
        {"data": {"a": 1}},
        {"data": {"step": 1, "ranks": 1, "workers": 1, "settings": {}}},
        {"requests": None},
    ],
)
def test_a_position_that_was_changed_is_said(
    made: tuple[Config, Path], copied: Path, alone: Ranks, change: Any
) -> None:
    path = copied / "position.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    longer = made[0].model_copy(update={"run": made[0].run.model_copy(update={"max_steps": 4})})
    with pytest.raises(ConfigError, match=r"damaged"):
        run(longer, alone, f"changed-{abs(hash(str(change)))}", resume=copied)


def test_best_weights_that_are_gone_are_said_before_training(copied: Path) -> None:
    (copied / "best" / INDEX).unlink()
    with pytest.raises(ConfigError, match="best: not a checkpoint"):
        load_position(copied)
