"""A batch on its way to the device, and the ids of every stage, on stand-ins for streams and collectives: nothing is
read before it is there or freed while it is read, and every `record_stream` is there for a reason.

Under TorchRec's own pipeline on two ranks, and stage by stage for what a pipeline may leave out.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

import dist_rec.data
from dist_rec.data import DedupLoader, unique_tokens
from dist_rec.data.collate import collate
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.unique_features import UniqueFeatures
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.training.pipeline import make_pipeline
from tests.data.requests import make_rows, make_schema, make_table
from tests.helpers.happens_before import waits_in
from tests.helpers.ranks import run_ranks
from tests.helpers.streams import Streams
from tests.integration import jobs
from tests.training.runs import fresh, make_config, these_ranks, write_dataset

CPU = torch.device("cpu")  # in the place of a GPU


def _host_batch(seed: int, requests: int = 4) -> HostBatch:
    return collate(make_table(make_rows(requests, seed)), make_schema())


@contextmanager
def packed_as_on_a_gpu() -> Iterator[None]:
    """Bit-packed indices stay packed, and are views of the buffer that was copied."""
    with mock.patch.object(unique_tokens, "unpack_inverse", lambda packed: packed):
        yield


def _stages(streams: Streams, batch: Any, uses: tuple[Callable[[Any], Any], ...]) -> None:
    """Copied on one stream, used on a second and then on a third, as TorchRec's pipeline does; then it is gone."""
    before: Any = streams.stream("memcpy")
    with streams.on(before):
        there = batch.to(CPU, non_blocking=True)
    for name, use in zip(("data_dist", "default"), uses, strict=True):
        stream: Any = streams.default if name == "default" else streams.stream(name)
        with streams.on(stream):
            stream.wait_stream(before)
            there.record_stream(stream)
            use(there)
        before = stream
    del there
    gc.collect()


def _read_all(batch: Any) -> None:
    """Every tensor that the batch of a model has."""
    torch.stack([values.sum().double() for values in _values(batch)]).sum()


def _values(batch: Any) -> Iterator[torch.Tensor]:
    yield from (batch.unique.values(), batch.unique.lengths(), batch.labels, batch.grouping_key)
    yield batch.candidates_per_rank
    for events in (batch.candidates, *batch.sequences.values()):
        yield from (events.lengths.tensor, *events.side.values())
        yield from ([] if events.age is None else [events.age])
        yield events.inverse if isinstance(events.inverse, torch.Tensor) else events.inverse.words


def _send_batch(streams: Streams) -> None:
    with streams.on_host():
        batch = _host_batch(0)
        batch.set_candidates_per_rank([2.0])
    _stages(streams, batch, (lambda there: there.unique.values().sum(), _read_all))


def _send_packed_batch(streams: Streams) -> None:
    with packed_as_on_a_gpu():
        _send_batch(streams)


def _send_features(streams: Streams) -> None:
    """One collection reads the distinct ids on the second stream, another one, which is not wrapped, the plain ids."""

    def second(there: UniqueFeatures) -> None:
        there.deduplicated.values().sum()
        there.plain.values().sum()

    def third(there: UniqueFeatures) -> None:
        there.deduplicated.lengths().sum()
        there.plain.lengths().sum()
        there.values_of("a").sum()

    with streams.on_host():
        features = UniqueFeatures.of(jobs.features(0), pin_memory=True)
    with packed_as_on_a_gpu():
        _stages(streams, features, (second, third))


def _deduplicate_there(streams: Streams) -> None:
    """On the device, ahead on the second stream; read on the third one."""
    data_dist: Any = streams.stream("data_dist")
    features = jobs.features(0)
    data_dist.wait_stream(streams.default)
    features.record_stream(data_dist)
    with streams.on(data_dist):
        found = UniqueFeatures.on_device(features)
    streams.default.wait_stream(data_dist)
    found.record_stream(streams.default)
    for key in found:
        segments = found.segments_of(key)
        assert segments is not None
        (segments.order.sum(), segments.offsets.sum(), found.values_of(key).sum(), found.offsets_of(key).sum())
    del found, segments, features
    gc.collect()


STAGES = (_send_batch, _send_packed_batch, _send_features, _deduplicate_there)


def _staged(stages: Callable[[Streams], None], without: str = "") -> Streams:
    with Streams(without) as streams:
        stages(streams)
    return streams


@pytest.mark.parametrize("stages", STAGES, ids=lambda of: of.__name__.strip("_"))
def test_every_stage_finds_what_it_reads(stages: Callable[[Streams], None]) -> None:
    assert not _staged(stages).races


def test_every_record_is_needed_and_none_was_left_out() -> None:
    ran = {place for stages in STAGES for place in _staged(stages).waits}
    places = waits_in(*sorted(Path(dist_rec.data.__file__).parent.glob("*.py")))
    # A packed index of a batch is a view of the buffer, which others record too.
    assert places == {place for place in ran if "bit_packed" not in place} and len(places) == 4
    assert not [place for place in places if not any(_staged(stages, place).races for stages in STAGES)]


def test_a_number_that_is_written_while_the_buffer_is_copied_is_found() -> None:
    with Streams() as streams, streams.on(streams.stream("memcpy")):
        with streams.on_host():
            batch = _host_batch(0)
        there = batch.to(CPU, non_blocking=True)
        batch.set_candidates_per_rank([2.0])
    assert there.num_candidates == batch.num_candidates
    assert ["host writes" in race and "host_batch.py" in race for race in streams.races] == [True]


def _drive(streams: Streams, pipeline: TrainPipelineSparseDist[Any, Any], batches: Iterator[Any]) -> None:
    """Until the batches end, on the three streams that the pipeline has on a GPU."""
    pipeline._memcpy_stream, pipeline._data_dist_stream = streams.stream("memcpy"), streams.stream("data_dist")
    while True:
        try:
            pipeline.progress(batches)
        except StopIteration:
            break
    pipeline.detach()


def _recipe(data: str, out: str) -> list[str]:
    """Six steps of LONGER by a recipe, with late updates from the third on."""
    ranks = these_ranks()
    config = make_config(Path(data), Path(out), optim={"warmup_sync_steps": 2})
    model, optimizer = fresh(config, ranks)
    assert optimizer.all_reduce is not None
    with Streams() as streams:
        optimizer.all_reduce._side_stream = streams.stream("side")
        with streams.on_host():
            batches = iter([_host_batch(10 * i + ranks.rank, 4 + i) for i in range(6)])
        _drive(streams, make_pipeline(model, optimizer, config.embedding, ranks.device), batches)
        optimizer.flush()
        del batches
        gc.collect()
    return streams.races + ([] if optimizer.steps == 6 else ["too few steps"])


def _plug_in(pooled: bool, dedup: str) -> list[str]:
    """Five steps of a job that is not ours."""
    dmp = jobs.shard(jobs.model(pooled, dedup), "row_wise", init_data_parallel=False)
    optimizer = HybridOptimizer(dmp, lambda p: torch.optim.SGD(p, lr=0.1), warmup_sync_steps=1)
    assert optimizer.all_reduce is not None
    with Streams() as streams, packed_as_on_a_gpu():
        optimizer.all_reduce._side_stream = streams.stream("side")
        with streams.on_host():
            batches: Any = iter(jobs.batches(5))
            if dedup == "host":
                batches = iter(list(DedupLoader(batches, pin_memory=True)))
        options = {"execute_all_batches": True, "pipeline_postproc": dedup == "device"}
        _drive(streams, TrainPipelineSparseDist(dmp, optimizer, CPU, **options), batches)
        optimizer.flush()
        del batches
        gc.collect()
    return streams.races + ([] if optimizer.steps == 5 else ["too few steps"])


def _pipelines(data: str, out: str) -> dict[str, list[str]]:
    found = {"recipe": _recipe(data, out)}
    for pooled in (False, True):
        for dedup in ("host", "device"):
            found[f"{'bags' if pooled else 'sequences'}, dedup on the {dedup}"] = _plug_in(pooled, dedup)
    return found


def test_under_the_pipeline_on_two_ranks(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data = write_dataset(tmp_path / "data")
    for found in run_ranks(_pipelines, 2, str(data), str(tmp_path / "out")):
        assert len(found) == 5 and not {job: races for job, races in found.items() if races}
