"""How a run ends that cannot go on: one sentence, from one rank, and the same exit code on all."""

import contextlib
import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist

from dist_rec.common.errors import RunError
from dist_rec.common.made import NotOurs
from dist_rec.common.strict import ConfigError
from dist_rec.data.validate import DataError
from dist_rec.training.failure import BROKEN, EXIT, one_voice, sentence
from dist_rec.training.report import config_yaml
from tests.helpers.ranks import run_ranks
from tests.training.runs import make_config, write_dataset

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConfigError("a: wrong"), "a: wrong"),
        (DataError("b: wrong"), "b: wrong"),
        (NotOurs("c: not ours"), "c: not ours"),
        (RunError("d: diverged"), "d: diverged"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "/x/y: Permission denied"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/x"),
            "/x: No space left on device; expected free space there",
        ),
        (MemoryError(), "out of memory on the host; expected a smaller data.batch_size"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB.\nmore"),
            "CUDA out of memory. Tried 2 GiB. Expected a smaller",
        ),
    ],
)
def test_what_a_user_can_mend_is_a_sentence(error: Exception, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert (sentence(error) or "").startswith(said)
    with pytest.raises(SystemExit) as end, one_voice():
        raise error
    assert end.value.code == (EXIT if isinstance(error, ConfigError | DataError | NotOurs | RunError) else BROKEN)
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {said}") and captured.err.count("\n") == 1 and not captured.out


@pytest.mark.parametrize(
    "error", [AssertionError("a bug"), TypeError("a bug"), RuntimeError("Connection closed by peer")]
)
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    """Alone, nobody else can have closed a connection."""
    with pytest.raises(type(error), match=str(error)), one_voice():
        raise error


def _ended(work: Any) -> tuple[Any, str]:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            with one_voice():
                work()
        except SystemExit as end:
            return end.code, said.getvalue()
    return None, said.getvalue()


def _all_fail() -> tuple[Any, str]:
    def work() -> None:
        raise DataError(f"rank {dist.get_rank()}")

    return _ended(work)


def test_of_ranks_that_meet_the_same_one_speaks() -> None:
    ended = run_ranks(_all_fail, 2)
    assert [code for code, _ in ended] == [EXIT, EXIT]
    assert sorted(said for _, said in ended)[0] == "" and sum(said.startswith("error: rank") for _, said in ended) == 1


def _lost(speaks: bool) -> tuple[Any, str]:
    """Rank 1 fails, or is lost without a word; rank 0 hears of it from a collective."""

    def work() -> None:
        if dist.get_rank() == 1 and speaks:
            raise DataError("row 7")
        if dist.get_rank() == 0:
            if speaks:
                dist.distributed_c10d._get_default_store().wait(["dist_rec/failed"])
            raise RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:40000")

    return _ended(work)


@pytest.mark.parametrize(
    ("speaks", "said"),
    [
        (True, ["", "error: row 7\n"]),
        (
            False,
            [
                "error: lost the connection to another rank, which has ended without a word (killed by the system?)\n",
                "",
            ],
        ),
    ],
)
def test_who_only_hears_of_the_end_of_another_is_silent_if_that_one_spoke(speaks: bool, said: list[str]) -> None:
    ended = run_ranks(_lost, 2, speaks)
    assert [text for _, text in ended] == said
    assert [code for code, _ in ended] == ([EXIT, EXIT] if speaks else [BROKEN, None])


def test_a_bad_row_of_one_rank_ends_both_with_its_sentence(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", {"train": [16, 16], "valid": [4], "test": [4]})
    path = data / "train" / "part-00000.parquet"
    table = pq.read_table(path)
    items = table.column("candidate.item").to_pylist()
    row = next(i for i, values in enumerate(items) if values and i >= 16)
    items[row] = [99] * len(items[row])
    at = table.schema.get_field_index("candidate.item")
    table = table.set_column(at, table.schema.field(at), pa.array(items, table.schema.field(at).type))
    pq.write_table(table, path, row_group_size=16)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(config_yaml(make_config(data, tmp_path, data={"workers": 1})))
    command = [sys.executable, str(ROOT / "launch" / "ranks.py"), "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "dist_rec.cli", "train", str(recipe)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=False)
    assert ran.returncode == EXIT and "Traceback" not in ran.stderr
    spoken = [line for line in ran.stderr.splitlines() if line.startswith("error:")]
    place = f"row group 1, row {row - 16}, field candidate.item"
    assert len(spoken) == 1 and f"{place}: expected an id from 0 to 49, got 99" in spoken[0]
    assert ran.stderr.strip().splitlines()[-1] == spoken[0]
