"""A purge on disk: the same bits as in a running job, the old bytes gone, and nothing half written."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from dist_rec.cli import app
from dist_rec.common.made import NotOurs
from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.errors import DataError
from dist_rec.embedding.rows import fresh_rows
from dist_rec.training import purge_checkpoint as module
from dist_rec.training.checkpoint import BEST, save_checkpoint
from dist_rec.training.made_with import MadeWith
from dist_rec.training.purge import purge_rows
from dist_rec.training.purge_checkpoint import purge_checkpoint
from dist_rec.training.ranks import Ranks
from tests.helpers.ranks import run_ranks
from tests.training.runs import evaluate_split, load, make_config, run, saved_state, these_ranks

PURGED = {"item": list(range(0, 50, 3)), "kind": [0, 2], "user": list(range(0, 1000, 7))}
MODEL = "embedding.collections.dim_8.embeddings."


def _config(data: Path, out: Path) -> Config:
    """Validates after step 3 of 5 and saves after 4, with a gradient in flight and with best weights inside."""
    return make_config(
        data,
        out,
        data={"batch_size": 4, "eval_batch_size": 1},
        run={"max_steps": 5, "eval_every": 3, "seed": 5, "select_best": "auc"},
        checkpoint={"every_steps": 2},
        optim={"correction": "extrapolate", "compress": "bf16"},
        embedding={"tables": {"item": {"sharding": ["row_wise"]}, "kind": {"sharding": ["data_parallel"]}}},
    )


@pytest.fixture(scope="module")
def saved(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    """A checkpoint of two ranks with everything in it."""
    out = tmp_path_factory.mktemp("saved")
    run_ranks(_train, 2, data, out)
    return _config(data, out), out / "run" / "checkpoints" / "step-4"


def _train(data: Path, out: Path) -> None:
    run(_config(data, out), these_ranks())


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """One file of ids per table, in different forms."""
    (tmp_path / "item.txt").write_text("\n".join(map(str, PURGED["item"])))
    (tmp_path / "kind.txt").write_text("2\n0\n")
    np.save(tmp_path / "user.npy", np.array(PURGED["user"]))
    return {"item": tmp_path / "item.txt", "kind": tmp_path / "kind.txt", "user": tmp_path / "user.npy"}


def _purge_online(data: Path, out: Path, checkpoint: Path) -> dict[str, Any]:
    """Loads, purges in the running job, saves; and evaluates both."""
    ranks, config = these_ranks(), _config(data, out)
    model, optimizer = load(config, ranks, checkpoint)
    ids = {table: torch.tensor(of) for table, of in PURGED.items()}
    records = purge_rows(model, ids, optimizer, init_scale=config.embedding.init_scale, seed=5, step=4)
    save_checkpoint(out / "online", model, optimizer, ranks)
    metrics = evaluate_split(config, model, ranks)
    return {"records": [(of.table, of.ids, of.sha256, of.seed, of.step) for of in records], "metrics": metrics}


def _evaluate(data: Path, out: Path, checkpoint: Path) -> dict[str, Any]:
    model, optimizer = load(_config(data, out), these_ranks(), checkpoint)
    return {"metrics": evaluate_split(_config(data, out), model, these_ranks()), "skipped": optimizer.skipped}


@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_bits_are_those_of_a_purge_in_a_running_job(
    data: Path, saved: tuple[Config, Path], files: dict[str, Path], tmp_path: Path, world_size: int
) -> None:
    _, checkpoint = saved
    records = purge_checkpoint(checkpoint, files, out=tmp_path / "offline")
    online = run_ranks(_purge_online, world_size, data, tmp_path, checkpoint)
    assert online[0]["records"] == [(of.table, of.ids, of.sha256, of.seed, of.step) for of in records]
    differing = _differing(saved_state(tmp_path / "offline"), saved_state(tmp_path / "online"))
    # A schedule sets the rates at the next update, so a job that has made none has those that it began with.
    assert [name for name in differing if not name.startswith(".optimizer.rates")] == []
    loaded = run_ranks(_evaluate, 3 - world_size, data, tmp_path, tmp_path / "offline")
    assert loaded[0] == {"metrics": online[0]["metrics"], "skipped": 1}


def _differing(a: Any, b: Any, place: str = "") -> list[str]:
    if isinstance(a, dict):
        assert a.keys() == b.keys(), place
        return [name for key in a for name in _differing(a[key], b[key], f"{place}.{key}")]
    return [] if a.dtype == b.dtype and torch.equal(a, b) else [place]


def _rows_before(checkpoint: Path) -> dict[str, bytes]:
    """The bytes of every row to be purged and of its state, where they are not all zero and nothing else's."""
    found: dict[str, bytes] = {}
    stay: set[bytes] = set()
    for folder in (checkpoint, checkpoint / BEST):
        state = saved_state(folder)
        tables = {table: state["model"][f"{MODEL}{table}.weight"] for table in ("item", "user")}
        tables["kind"] = state["model"]["embedding.replicated.kind.weight"]
        for table, weight in tables.items():
            found |= {f"{folder.name} {table} {i}": _bytes(weight[i]) for i in PURGED[table]}
            # Ranks draw the rows of their shards from one seed: a row that nobody trained is also that of another id.
            stay |= {_bytes(weight[i]) for i in range(len(weight)) if i not in PURGED[table]}
        if "optimizer" not in state:
            continue
        dense = state["optimizer"]["dense"]["state"]["embedding.replicated.kind.weight"]
        found |= {f"{key} {i}": _bytes(of[i]) for key, of in dense.items() if of.ndim for i in PURGED["kind"]}
        for part in ("in_flight", "last"):
            of = state["optimizer"][part]["embedding.replicated.kind.weight"]["value"]
            found |= {f"{part} {i}": _bytes(of[i]) for i in PURGED["kind"]}
    return {name: of for name, of in found.items() if any(of) and of not in stay}


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()


def _held(folder: Path, rows: dict[str, bytes]) -> set[str]:
    contents = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return {name for name, of in rows.items() if any(of in content for content in contents)}


def test_no_file_has_the_bytes_of_an_old_row(
    saved: tuple[Config, Path], files: dict[str, Path], tmp_path: Path
) -> None:
    _, checkpoint = saved
    rows = _rows_before(checkpoint)
    assert {name.split()[0] for name in rows} >= {"step-4", BEST, "exp_avg", "exp_avg_sq", "in_flight", "last"}
    assert _held(checkpoint, rows) == set(rows), "the search finds what is there"
    purge_checkpoint(checkpoint, files, out=tmp_path / "out")
    assert _held(tmp_path / "out", rows) == set()
    best = saved_state(tmp_path / "out" / BEST)["model"]
    ids = torch.tensor(PURGED["item"])
    assert torch.equal(best[f"{MODEL}item.weight"][ids], fresh_rows("item", ids, 8, init_scale=0.05, seed=5))


def test_other_rows_and_the_position_stay(saved: tuple[Config, Path], files: dict[str, Path], tmp_path: Path) -> None:
    _, checkpoint = saved
    purge_checkpoint(checkpoint, {"item": files["item"]}, out=tmp_path / "out")
    before, after = saved_state(checkpoint), saved_state(tmp_path / "out")
    changed = [name for name in before["model"] if not torch.equal(before["model"][name], after["model"][name])]
    assert changed == [f"{MODEL}item.weight"]
    kept = torch.ones(50, dtype=torch.bool).index_fill(0, torch.tensor(PURGED["item"]), False)
    assert torch.equal(before["model"][changed[0]][kept], after["model"][changed[0]][kept])
    assert _differing(before["optimizer"]["dense"], after["optimizer"]["dense"]) == []
    for name in ("position.json", "random-0-of-2.json", "random-1-of-2.json"):
        assert (checkpoint / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_in_place_and_twice(data: Path, files: dict[str, Path], tmp_path: Path, alone: Ranks) -> None:
    config = _config(data, tmp_path)
    run(config, alone)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-4"
    before = {path.name for path in checkpoint.rglob("*")}
    purge_checkpoint(checkpoint, {"item": files["item"]})
    once = saved_state(checkpoint)
    purge_checkpoint(checkpoint, {"item": files["item"]})
    again = saved_state(checkpoint)
    assert _differing(once, again) == [], "what is fresh becomes fresh"
    assert {path.name for path in checkpoint.rglob("*")} == before
    assert [of.table for of in MadeWith.read(checkpoint).purged] == ["item"] * 2
    assert len(MadeWith.read(checkpoint / BEST).purged) == 2
    run(config, alone, "resumed", resume=checkpoint)
    later = tmp_path / "resumed" / "checkpoints"
    assert len(MadeWith.read(later / "last").purged) == 2, "later checkpoints carry the record on"


def test_a_failure_leaves_the_checkpoint_as_it_was(
    data: Path, files: dict[str, Path], tmp_path: Path, alone: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(_config(data, tmp_path), alone)
    folder = tmp_path / "run" / "checkpoints"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    real, calls = torch.save, []

    def full(values: Any, *to: Any) -> None:
        calls.append(values)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        real(values, *to)

    monkeypatch.setattr(module.torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        purge_checkpoint(folder / "step-4", files)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [
        ("table", ConfigError, r"--ids items=.*: expected a table of the checkpoint, one of item, query, user, kind"),
        ("row", DataError, r"item.txt, line 2: expected an id from 0 to 49, got 50"),
        ("empty", DataError, r"item.txt: expected at least one id to purge, got none"),
        ("file", ConfigError, r"notes.txt: expected only files of a checkpoint"),
        ("folder", ConfigError, r"made_with.json"),
        ("out", NotOurs, r"expected a new or empty folder"),
        ("damaged", ConfigError, r"is damaged"),
    ],
)
def test_what_cannot_be_purged_is_said(
    data: Path, tmp_path: Path, alone: Ranks, change: str, kind: type[Exception], told: str
) -> None:
    run(_config(data, tmp_path), alone)
    checkpoint, out, files = tmp_path / "run" / "checkpoints" / "step-4", tmp_path / "out", tmp_path / "item.txt"
    files.write_text({"row": "1\n50\n", "empty": "\n"}.get(change, "1\n"))
    given = {"items" if change == "table" else "item": files}
    if change == "file":
        (checkpoint / "notes.txt").write_text("mine")
    elif change == "folder":
        (checkpoint / "made_with.json").unlink()
    elif change == "out":
        out.mkdir()
        (out / "mine").write_text("mine")
    elif change == "damaged":
        path = checkpoint / "__0_0.distcp"
        content = bytearray(path.read_bytes())
        content[:64] = bytes(64)
        path.write_bytes(content)
    with pytest.raises(kind, match=told):
        purge_checkpoint(checkpoint, given, out=out)
    assert not out.exists() or change == "out"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".out")], "nothing half written"


@pytest.mark.parametrize("kind", ["hashed", "dynamic"])
def test_tables_without_a_range_cannot_be_purged(data: Path, tmp_path: Path, alone: Ranks, kind: str) -> None:
    run(make_config(data, tmp_path, embedding={"tables": {"item": {"rows": 600, "ids": kind}}}), alone)
    (tmp_path / "ids.txt").write_text("3\n")
    with pytest.raises(ConfigError, match=f"--ids item=...: its ids are {kind}, so that no row belongs to an id for "):
        purge_checkpoint(tmp_path / "run" / "checkpoints" / "last", {"item": tmp_path / "ids.txt"})
    purge_checkpoint(tmp_path / "run" / "checkpoints" / "last", {"user": tmp_path / "ids.txt"}, out=tmp_path / "out")


def test_the_command(saved: tuple[Config, Path], files: dict[str, Path], tmp_path: Path) -> None:
    _, checkpoint = saved
    given = [f"--ids={table}={path}" for table, path in files.items()]
    told = CliRunner().invoke(app, ["purge", str(checkpoint), *given, "--out", str(tmp_path / "out")])
    assert told.exit_code == 0, told.output
    assert "item: 17 rows" in told.output and "kind: 2 rows" in told.output
    purged = json.loads((tmp_path / "out" / "made_with.json").read_text())["purged"]
    assert [of["table"] for of in purged] == ["item", "kind", "user"] and "999" not in json.dumps(purged[0]["ids"])
    for wrong in (["--ids", "item"], [], [*given[:1], "--out", str(tmp_path / "o"), "--in-place"]):
        assert CliRunner().invoke(app, ["purge", str(checkpoint), *wrong]).exit_code == 2
