from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torchrec.optim.keyed import CombinedOptimizer

from benchmarks.ladder import jobs
from benchmarks.ladder.cell import Cell, read_requests, write_data
from benchmarks.ladder.jobs import Job, Start, _compile, load_tables
from benchmarks.ladder.plain_tokens import PlainTokens
from benchmarks.ladder.rows import ROWS
from dist_rec.config import ParallelConfig
from dist_rec.optim import HybridOptimizer
from dist_rec.training.ranks import start_ranks
from tests.helpers.ladder import Both

CELL = Cell("longer", "30", 2, 1, batch=4, steps=2)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    folder = tmp_path_factory.mktemp("ladder") / "data"
    write_data(CELL, folder)
    requests, schema = read_requests(CELL, folder, "train", CELL.requests)
    with start_ranks(ParallelConfig(backend="gloo")) as ranks:
        yield Start.of(CELL, folder, ranks, schema, requests)


@pytest.mark.parametrize("name", ["1", "4", "5", "delayed"])
def test_a_job_starts_from_the_common_weights_and_trains(start: Start, name: str) -> None:
    job = Job(ROWS[name], start)
    ranker = {key: of for key, of in job.dmp.state_dict().items() if ".ranker." in key or key.startswith("ranker.")}
    assert len(ranker) == len(start.dense)
    before = {key: of.clone() for key, of in ranker.items()}
    for key, of in before.items():
        assert torch.equal(of, start.dense[key.split("ranker.")[1]])
    first, *_ = next(iter([*job.train(job.batches)]))
    assert first.isfinite() and len(job.batches) == CELL.steps
    job.flush()
    changed = [key for key, of in job.dmp.state_dict().items() if key in before and not torch.equal(of, before[key])]
    assert len(changed) > len(before) // 2
    assert isinstance(job.optimizer, HybridOptimizer if name == "delayed" else CombinedOptimizer)
    assert job.nbytes == sum(batch.nbytes for batch in job.batches) / CELL.steps and job.collate_ms > 0


def test_a_drawn_block_has_the_same_requests_in_every_row(start: Start) -> None:
    shared, sorted_by_length = Job(ROWS["1"], start), Job(ROWS["2"], start)
    for number in (0, 1):
        shared.draw(number)
        sorted_by_length.draw(number)
        labels = [torch.cat([batch.labels for batch in job.batches]).sum() for job in (shared, sorted_by_length)]
        assert labels[0] == labels[1]
    first = [batch.labels for batch in shared.batches]
    shared.draw(2)
    assert not all(map(torch.equal, first, [batch.labels for batch in shared.batches]))
    assert len(shared.batches) == CELL.steps


def test_rows_with_the_same_samples_have_the_same_loss(start: Start) -> None:
    losses = {
        name: [float(of[0]) for of in Job(ROWS[name], start).train(Job(ROWS[name], start).batches)] for name in "16"
    }
    ordered = Job(replace(ROWS["6"], alike=False), start)
    assert [float(of[0]) for of in ordered.train(ordered.batches)] == pytest.approx(losses["1"], rel=1e-5)


def test_repeated_histories_are_cut_to_a_batch_where_they_take_seconds(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "MOST_REPEATED_EVENTS", CELL.repeated_events - 1)
    assert (len(Job(ROWS["0"], start).batches), len(Job(ROWS["1"], start).batches)) == (1, CELL.steps)


def test_tables_that_the_model_lacks_are_refused(start: Start) -> None:
    job = Job(ROWS["2"], start)
    for name, whole in start.tables.items():
        (shard,) = next(of for key, of in job.dmp.state_dict().items() if f".{name}.weight" in key).local_shards()
        assert torch.equal(shard.tensor, whole)
    with pytest.raises(ValueError, match="expected one parameter of table 'brand' in the model, got 0"):
        load_tables(job.dmp, {"brand": torch.zeros(1, 16)})


def test_compiles_the_outermost_parts_that_take_tensors_alone() -> None:
    both = Both("longer", 2)
    for ranker in (both.plain, both.ranker):
        _compile(ranker)
    compiled = {name for name, module in both.plain.named_modules() if module._compiled_call_impl is not None}
    assert {"tokens.history", "body.encoders.history.cross", "head"} <= compiled
    assert isinstance(both.plain.tokens["history"], PlainTokens)
    assert not any(other != name and other.startswith(f"{name}.") for name in compiled for other in compiled)
    compiled = {name for name, module in both.ranker.named_modules() if module._compiled_call_impl is not None}
    assert {"body.encoders.history.cross.ffn", "head"} <= compiled
