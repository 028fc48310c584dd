"""Predictions into files: the numbers of an evaluation, in the order of the requests, on any number of ranks, and after
any interruption."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from torch import Tensor

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.errors import DataError
from dist_rec.data.writer import write_schema
from dist_rec.predict import predict as of_predict
from dist_rec.predict.columns import EMBEDDING, More
from dist_rec.predict.folder import PROGRESS, part_name
from dist_rec.predict.job import MANIFEST, Prediction
from dist_rec.predict.predict import Wanted, predict_files
from dist_rec.training import evaluate
from dist_rec.training.metrics import gather_rows
from dist_rec.training.ranks import Ranks
from tests.data.requests import make_rows, make_schema, make_table
from tests.helpers.ranks import run_ranks
from tests.training.runs import make_config, quiet_console, run, these_ranks

ALL = More(logits=True, embeddings=True)
LABELS = [f"candidate.{label}{more}" for label in ("click", "buy") for more in ("", ".oracle")]


def _predict(config: Config, checkpoint: Path, wanted: Wanted, ranks: Ranks) -> list[str]:
    return predict_files(config, checkpoint, wanted, ranks, quiet_console())


def _result(out: Path) -> pa.Table:
    whole = Prediction.read(out)
    assert whole is not None and whole.is_complete
    return pa.concat_tables([pq.read_table(out / part.name) for part in whole.parts])


def _evaluated(config: Config, checkpoint: Path, ranks: Ranks, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """(C, T) the logits that `dist-rec eval` computes on the test split, in the order of the requests."""
    seen: list[Tensor] = []

    def gathered(rows: Tensor, group: Any) -> Tensor:
        seen.append(gather_rows(rows, group))
        return seen[-1]

    with monkeypatch.context() as patched:
        patched.setattr(evaluate, "gather_rows", gathered)
        evaluate.evaluate_checkpoint(config, checkpoint, "test", ranks)
    return seen[0][:, :2]


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["last", "step-2"])
def test_the_numbers_are_those_of_an_evaluation_bit_by_bit(
    config: Config,
    checkpoints: Path,
    data: Path,
    alone: Ranks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """Row groups of 6 and 9 requests, batches of 5, parts of 5."""
    wanted = _evaluated(config, checkpoints / name, alone, monkeypatch)
    lines = _predict(config, checkpoints / name, Wanted(data / "test", tmp_path / "out", ALL), alone)
    found, rows = _result(tmp_path / "out"), make_rows(15, seed=2)
    assert found.column("request.row").to_pylist() == list(range(15))
    for column in ("user", "time", "candidate.item", "candidate.kind"):
        assert found.column(column).to_pylist() == [row[column] for row in rows], "the order is that of the requests"
    for task, label in enumerate(("click", "buy")):
        logits = found.column(f"logit.{label}").combine_chunks().flatten().to_numpy()
        assert np.array_equal(logits, wanted[:, task].numpy())
        probabilities = found.column(f"probability.{label}").combine_chunks().flatten().to_numpy()
        assert np.array_equal(probabilities, wanted[:, task].double().sigmoid().float().numpy())
    vectors = [vector for row in found.column(EMBEDDING).to_pylist() for vector in row]
    assert len(vectors) == len(wanted) and len(set(map(len, vectors))) == 1
    assert "15 requests" in lines[0] and f"{len(wanted)} candidates, 3 files" in lines[0]


def _on_rank(config: Config, checkpoint: Path, wanted: Wanted) -> list[str]:
    return _predict(config, checkpoint, wanted, these_ranks())


SPREAD = {"embedding": {"tables": {"item": {"sharding": ["row_wise"]}}}}


@pytest.mark.parametrize(
    "part_requests",
    [
        pytest.param(5, id="3 parts"),
        pytest.param(10, id="2 parts", marks=pytest.mark.slow),
        pytest.param(100, id="1 part", marks=pytest.mark.slow),
    ],
)
def test_any_number_of_ranks_writes_the_same_files(data: Path, last: Path, tmp_path: Path, part_requests: int) -> None:
    """Three ranks share two parts, or one: some have none. Rows of a table lie on all of them."""
    config = make_config(data, tmp_path, **SPREAD)
    for ranks in (1, 2, 3):
        out = tmp_path / f"on-{ranks}"
        said = run_ranks(_on_rank, ranks, config, last, Wanted(data / "test", out, ALL, part_requests))
        assert len({lines[0] for lines in said}) == 1
        assert _files(out) == _files(tmp_path / "on-1")
    assert len(Prediction.read(tmp_path / "on-1").parts) == -(-15 // part_requests)  # pyright: ignore[reportOptionalMemberAccess]


class _Killed(Exception):
    pass


def _kill_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """The process ends before the batch after this many."""
    scored, left = of_predict.Scorer.__call__, [calls]

    def dies(self: Any, *args: Any, **options: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise _Killed
        return scored(self, *args, **options)

    monkeypatch.setattr(of_predict.Scorer, "__call__", dies)


@pytest.mark.parametrize("after", range(4))
def test_it_goes_on_where_it_was_killed(
    config: Config, last: Path, data: Path, alone: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """In parts of two batches: 10 requests and 5."""
    whole, out = Wanted(data / "test", tmp_path / "whole", ALL, 10), Wanted(data / "test", tmp_path / "out", ALL, 10)
    _predict(config, last, whole, alone)
    with monkeypatch.context() as patched:
        _kill_after(patched, after)
        if after < 3:
            with pytest.raises(_Killed):
                _predict(config, last, out, alone)
            begun = Prediction.read(out.out)
            assert begun is not None and not begun.is_complete
            assert (out.out / part_name(0)).exists() == (after == 2)
        else:
            _predict(config, last, out, alone)
    lines = _predict(config, last, out, alone)
    assert _files(out.out) == _files(whole.out)
    said = {2: "1 of 2 parts were there from before", 3: "finished before; 15 requests"}.get(after, "SHA-256")
    assert any(said in line for line in lines)


def test_a_part_that_was_harmed_is_made_again_and_no_other(
    config: Config, last: Path, data: Path, alone: Ranks, tmp_path: Path
) -> None:
    wanted = Wanted(data / "test", tmp_path / "out", part_requests=5)
    _predict(config, last, wanted, alone)
    before, kept = _files(wanted.out), (wanted.out / part_name(2)).stat().st_mtime_ns
    (wanted.out / part_name(1)).write_bytes(before[part_name(1)][:-3])
    lines = _predict(config, last, wanted, alone)
    assert "2 of 3 parts were there from before" in lines
    assert _files(wanted.out) == before and (wanted.out / part_name(2)).stat().st_mtime_ns == kept


def test_a_finished_prediction_loads_no_model(
    config: Config, last: Path, data: Path, alone: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = Wanted(data / "test", tmp_path / "out")
    _predict(config, last, wanted, alone)
    monkeypatch.setattr(of_predict, "Scorer", None)
    (line,) = _predict(config, last, wanted, alone)
    candidates = sum(len(row["candidate.item"]) for row in make_rows(15, seed=2))
    told = f"finished before; 15 requests, {candidates} candidates, 3 files; nothing to do"
    assert line == f"{wanted.out}: {told}"
    assert not (wanted.out / PROGRESS).exists()


def test_something_else_is_refused_and_nothing_is_written(
    config: Config, checkpoints: Path, data: Path, alone: Ranks, tmp_path: Path
) -> None:
    wanted = Wanted(data / "test", tmp_path / "out")
    _predict(config, checkpoints / "last", wanted, alone)
    before = _files(wanted.out)
    with pytest.raises(ConfigError, match="option, logits: False then, True now"):
        _predict(config, checkpoints / "last", Wanted(wanted.data, wanted.out, More(logits=True)), alone)
    with pytest.raises(ConfigError, match=r"checkpoint .SHA-256"):
        _predict(config, checkpoints / "step-2", wanted, alone)
    with pytest.raises(ConfigError, match=r"data, part-00000\.parquet"):
        _predict(config, checkpoints / "last", Wanted(data / "valid", wanted.out), alone)
    shorter = make_config(data, tmp_path, data={"max_length": 3})
    with pytest.raises(ConfigError, match=r"recipe, data\.max_length: None then, 3 now"):
        _predict(shorter, checkpoints / "last", wanted, alone)
    assert _files(wanted.out) == before


def _write_requests(folder: Path, sizes: list[int], leave_out: list[str]) -> Path:
    """The requests of the test split without some columns, in several files."""
    folder.mkdir(parents=True)
    table, start = make_table(make_rows(15, seed=2)).drop_columns(leave_out), 0
    for number, size in enumerate(sizes):
        pq.write_table(table.slice(start, size), folder / f"{number}.parquet", row_group_size=2)
        start += size
    return folder


@pytest.mark.parametrize("sizes", [[15], [1, 10, 4]], ids=["one file", "three files"])
def test_requests_need_no_labels(
    config: Config, last: Path, data: Path, alone: Ranks, tmp_path: Path, sizes: list[int]
) -> None:
    _predict(config, last, Wanted(data / "test", tmp_path / "labelled", ALL), alone)
    requests = _write_requests(tmp_path / "requests", sizes, LABELS)
    _predict(config, last, Wanted(requests, tmp_path / "out", ALL), alone)
    assert _result(tmp_path / "out").equals(_result(tmp_path / "labelled"))


def test_a_dataset_of_its_own_may_lie_elsewhere_with_fields_in_another_order(
    config: Config, last: Path, data: Path, alone: Ranks, tmp_path: Path
) -> None:
    _predict(config, last, Wanted(data / "test", tmp_path / "wanted", ALL), alone)
    candidate = {"ids": ["kind", "item"], "labels": ["buy", "click"]}
    _write_requests(tmp_path / "new" / "today", [15], LABELS)
    write_schema(tmp_path / "new", make_schema(candidate=candidate))
    gone = config.model_copy(update={"data": config.data.model_copy(update={"path": "/nowhere"})})
    _predict(gone, last, Wanted(tmp_path / "new" / "today", tmp_path / "out", ALL), alone)
    assert _result(tmp_path / "out").equals(_result(tmp_path / "wanted"))


def test_the_best_weights_of_a_run_are_a_checkpoint_as_others(data: Path, alone: Ranks, tmp_path: Path) -> None:
    config = make_config(
        data, tmp_path, run={"max_steps": 4, "eval_every": 2, "select_best": "auc"}, checkpoint={"every_steps": 4}
    )
    run(config, alone)
    folder = tmp_path / "run" / "checkpoints"
    _predict(config, folder / "best", Wanted(data / "test", tmp_path / "best"), alone)
    _predict(config, folder / "step-4" / "best", Wanted(data / "test", tmp_path / "inside"), alone)
    assert _result(tmp_path / "best").equals(_result(tmp_path / "inside"))


def test_probabilities_that_are_not_finite_are_counted(
    config: Config, last: Path, data: Path, alone: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = of_predict.Scorer.__call__

    def broken(self: Any, *args: Any, **options: Any) -> Any:
        found = scored(self, *args, **options)
        found.logits[0, 1] = float("nan")
        return found

    monkeypatch.setattr(of_predict.Scorer, "__call__", broken)
    lines = _predict(config, last, Wanted(data / "test", tmp_path / "out"), alone)
    assert lines[-1] == "3 candidates have a probability that is not finite", "one in each batch"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"checkpoint": "nope"}, ConfigError, "nope: not a checkpoint"),
        ({"wanted": {"data": "nowhere"}}, DataError, "nowhere: expected a folder with the requests"),
        ({"wanted": {"data": "empty"}}, DataError, "empty: expected a folder with at least one .parquet file"),
        ({"wanted": {"data": "lacking"}}, DataError, "field candidate.item: expected a column of that name"),
        ({"wanted": {"out": "taken"}}, DataError, "taken: expected a new or empty folder, .* got one with notes.txt"),
        ({"wanted": {"part_requests": 0}}, ConfigError, "--part-requests: expected at least 1, got 0"),
        ({"model": {"longer": {"k": 4}}}, ConfigError, "model.longer.k: 3 when it was saved, 4 now"),
        ({"data": {"folds": ["train", "valid", "test"]}}, ConfigError, "data.folds: a prediction is of one model"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_predicted_is_said_before_a_model_is_made(
    data: Path,
    checkpoints: Path,
    alone: Ranks,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.setattr(of_predict, "Scorer", None)
    (tmp_path / "empty").mkdir()
    _write_requests(tmp_path / "lacking", [15], ["candidate.item"])
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    given = {"data": data / "test", "out": tmp_path / "out", "part_requests": None}
    given |= {name: tmp_path / of if name != "part_requests" else of for name, of in change.pop("wanted", {}).items()}
    checkpoint = checkpoints / change.pop("checkpoint", "last")
    with pytest.raises(error, match=message):
        _predict(make_config(data, tmp_path, **change), checkpoint, Wanted(**given), alone)
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_a_checkpoint_whose_bytes_have_changed_is_refused(
    config: Config, last: Path, data: Path, alone: Ranks, tmp_path: Path
) -> None:
    shutil.copytree(last, tmp_path / "last")
    (file,) = (tmp_path / "last").glob("__0_*")
    whole = bytearray(file.read_bytes())
    whole[len(whole) // 2] ^= 1
    file.write_bytes(whole)
    with pytest.raises(ConfigError, match="damaged: its SHA-256"):
        _predict(config, tmp_path / "last", Wanted(data / "test", tmp_path / "out"), alone)


def test_a_terminal_shows_a_bar(config: Config, last: Path, data: Path, alone: Ranks, tmp_path: Path) -> None:
    shown = io.StringIO()
    predict_files(
        config, last, Wanted(data / "test", tmp_path / "out"), alone, Console(file=shown, force_terminal=True)
    )
    assert "predict" in shown.getvalue() and "15/15" in shown.getvalue()


def test_a_log_gets_a_line_now_and_then(
    config: Config, last: Path, data: Path, alone: Ranks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(of_predict, "SAY_EVERY_S", 0.0)
    with caplog.at_level("INFO", "dist_rec"):
        _predict(config, last, Wanted(data / "test", tmp_path / "out"), alone)
    said = [record.getMessage() for record in caplog.records if "of 15 requests" in record.getMessage()]
    assert [line.split(" of ")[0] for line in said] == ["5", "10", "15"]


def test_a_job_that_ended_here_meanwhile_is_not_written_over(
    config: Config, last: Path, data: Path, tmp_path: Path, alone: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one, from begin to end, while this one adds up its data."""
    out, plain, others = tmp_path / "out", of_predict.sums_of, [Wanted(data / "test", tmp_path / "out", ALL)]

    def sums(*arguments: Any) -> Any:
        found = plain(*arguments)
        if others:
            _predict(config, last, others.pop(), alone)
        return found

    monkeypatch.setattr(of_predict, "sums_of", sums)
    with pytest.raises(ConfigError, match="a prediction was begun here from something else"):
        _predict(config, last, Wanted(data / "test", out), alone)
    assert not others and "logit.click" in _result(out).column_names


def test_columns_of_another_schema_are_not_mixed_in(
    config: Config, last: Path, data: Path, tmp_path: Path, alone: Ranks
) -> None:
    shutil.copytree(data, tmp_path / "data")
    wanted = Wanted(tmp_path / "data" / "test", tmp_path / "out", part_requests=5)
    _predict(config, last, wanted, alone)
    (wanted.out / part_name(1)).unlink()
    schema = tmp_path / "data" / "schema.yaml"
    changed = schema.read_text().replace("  time: time\n", "")
    assert changed != schema.read_text()
    schema.write_text(changed)
    with pytest.raises(ConfigError, match="schema"):
        _predict(config, last, wanted, alone)
