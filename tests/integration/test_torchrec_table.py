"""The table of docs/plug-ins.md: what of TorchRec a deduplicated job keeps. Rows have the names there; one start of
ranks runs all pipelines or shardings, and what failed is listed by row."""

import functools
import logging
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.train_pipeline import (
    EvalPipelineSparseDist,
    GradientAccumulationConfig,
    GradientAccumulationWrapper,
    TrainPipelineBase,
    TrainPipelineSparseDist,
)
from torchrec.distributed.train_pipeline import experimental_pipelines as experimental
from torchrec.distributed.train_pipeline import train_pipelines as pipelines

from dist_rec.data.dedup_loader import DedupLoader
from tests.helpers.ranks import run_ranks
from tests.integration.jobs import CPU, Batch, batches, dense_of, model, shard

STEPS = 4
Made = Callable[[DistributedModelParallel, torch.optim.Optimizer, dict[str, Any]], Any]


def _of(name: str, **options: Any) -> Made:
    """A pipeline that this TorchRec may not have."""
    kind = getattr(pipelines, name, None) or getattr(experimental, name, None)

    def make(dmp: DistributedModelParallel, dense: torch.optim.Optimizer, more: dict[str, Any]) -> Any:
        if kind is None:
            raise NotImplementedError(name)
        return kind(dmp, dense, CPU, **options, **more)

    return make


def _accumulating(dmp: DistributedModelParallel, dense: torch.optim.Optimizer, more: dict[str, Any]) -> Any:
    config = GradientAccumulationConfig(is_enabled=True, num_steps=2)
    return GradientAccumulationWrapper(TrainPipelineSparseDist(dmp, dense, CPU, **more), dense, dmp, config)


def _own_forward(dmp: DistributedModelParallel, dense: torch.optim.Optimizer, more: dict[str, Any]) -> Any:
    return TrainPipelineSparseDist(dmp, dense, CPU, custom_model_fwd=lambda batch: dmp(batch), **more)


PIPELINES: dict[str, Made] = {
    "TrainPipelineBase": lambda dmp, dense, more: TrainPipelineBase(dmp, dense, CPU),
    "TrainPipelineSparseDist": _of("TrainPipelineSparseDist"),
    "execute_all_batches=False": _of("TrainPipelineSparseDist", execute_all_batches=False),
    "enqueue_batch_after_forward": _of("TrainPipelineSparseDist", enqueue_batch_after_forward=True),
    "enable_inplace_copy_batch": _of("TrainPipelineSparseDist", enable_inplace_copy_batch=True),
    "free_features_storage_early": _of("TrainPipelineSparseDist", free_features_storage_early=True),
    "custom_model_fwd": _own_forward,
    "TrainPipelineSparseDistLite": _of("TrainPipelineSparseDistLite"),
    "Lite, freeing early": _of(
        "TrainPipelineSparseDistLite", free_features_storage_early=True, clear_data_dist_inputs=True
    ),
    "TrainPipelineSparseDistT": _of("TrainPipelineSparseDistT"),
    "TrainEvalHybridPipelineBase": _of("TrainEvalHybridPipelineBase"),
    "EvalPipelineSparseDist": lambda dmp, dense, more: EvalPipelineSparseDist(dmp.eval(), dense, CPU),
    "GradientAccumulationWrapper": _accumulating,
}


def _losses(pipeline: Any, data: Any) -> list[float]:
    found, source = [], iter(data)
    while True:
        try:
            found.append(float(pipeline.progress(source)))
        except StopIteration:
            return found


def _run(make: Made, pooled: bool, dedup: str) -> list[float]:
    dmp = shard(model(pooled, dedup))
    more = {"pipeline_postproc": True} if dedup == "device" else {}
    data = DedupLoader(batches(STEPS)) if dedup == "host" else batches(STEPS)
    return _losses(make(dmp, dense_of(dmp), more), data)


def _differences(make: Callable[[bool, str], list[float]], rows: tuple[bool, ...] = (False, True)) -> str:
    """Where losses are not those of the plain job, or what is raised instead."""
    found = ""
    for pooled in rows:
        expected = make(pooled, "none")
        for dedup in ("host", "device"):
            try:
                got = make(pooled, dedup)
            except Exception as error:
                found += f"pooled {pooled}, {dedup}: {type(error).__name__}: {error}\n"
                continue
            same = len(got) == len(expected) and torch.allclose(torch.tensor(got), torch.tensor(expected), rtol=1e-6)
            found += "" if same else f"pooled {pooled}, {dedup}: {got}, not {expected}\n"
    return found


def _every_pipeline() -> dict[str, str]:
    logging.disable()
    warnings.simplefilter("ignore")
    return {name: _differences(functools.partial(_run, make)) for name, make in PIPELINES.items()}


def _complaints(ranks: list[dict[str, str]]) -> str:
    return "".join(f"{row}: {told}" for found in ranks for row, told in found.items() if told)


def test_every_pipeline() -> None:
    assert not (found := _complaints(run_ranks(_every_pipeline, 2))), found


def _refused(pipeline: Made) -> dict[str, str]:
    """What a deduplicated job is told by what cannot be."""
    logging.disable()
    warnings.simplefilter("ignore")
    found: dict[str, str] = {}
    for pooled in (False, True):
        for dedup in ("host", "device"):
            try:
                _run(pipeline, pooled, dedup)
                found[f"{pooled} {dedup}"] = "nothing"
            except Exception as error:
                found[f"{pooled} {dedup}"] = f"{type(error).__name__}: {error}"
    return found


def _clearing() -> dict[str, str]:
    return _refused(_of("TrainPipelineSparseDist", clear_data_dist_inputs=True))


def test_clear_data_dist_inputs() -> None:
    """Sharded EmbeddingCollections of TorchRec fail with it; deduplicated tables are such."""
    for found in run_ranks(_clearing, 2):
        assert all("expected clear_data_dist_inputs=False" in told for told in found.values()), found


WORKING = ("table_wise", "row_wise", "column_wise", "mixed")


def _forward(module: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
    found: Any = module(batch.features)
    values = {name: found[name] for name in sorted(found.keys())}
    return {name: value.values() if hasattr(value, "lengths") else value for name, value in values.items()}


def _every_sharding() -> dict[str, str]:
    """Against the plain collection before sharding, and, table-wise and column-wise, against the plain job."""
    logging.disable()
    warnings.simplefilter("ignore")
    found: dict[str, str] = {}
    for way in WORKING:
        found[way] = ""
        for pooled in (False, True):
            (batch,) = batches(1)
            expected = _forward(model(pooled, "none").ec, batch)
            for dedup in ("host", "device"):
                given = (
                    replace(batch, features=DedupLoader([]).deduplicate(batch.features)) if dedup == "host" else batch
                )
                got = _forward(shard(model(pooled, dedup), way).module.ec, given)
                same = all(torch.allclose(got[name], value, rtol=1e-6, atol=1e-6) for name, value in expected.items())
                found[way] += (
                    "" if same and got.keys() == expected.keys() else f"pooled {pooled}, {dedup}: another forward\n"
                )

        def train(pooled: bool, dedup: str, way: str = way) -> list[float]:
            dmp = shard(model(pooled, dedup), way)
            data = DedupLoader(batches(STEPS)) if dedup == "host" else batches(STEPS)
            return _losses(TrainPipelineBase(dmp, dense_of(dmp), CPU), data)

        # Row-wise, a plain bag collection gives the second table of a shared key other rows than before sharding.
        found[way] += _differences(train, (False, True) if way in ("table_wise", "column_wise") else (False,))
    return found


@pytest.mark.parametrize("world_size", [1, 2])
def test_every_sharding(world_size: int) -> None:
    assert not (found := _complaints(run_ranks(_every_sharding, world_size))), found


def _no_sharding() -> dict[str, str]:
    """What TorchRec says where wrapped tables are to be sharded in a way that an EmbeddingCollection does not have."""
    logging.disable()
    warnings.simplefilter("ignore")
    found: dict[str, str] = {}
    for pooled in (False, True):
        for way in ("table_row_wise", "grid"):
            try:
                shard(model(pooled, "host"), way)
                found[f"{way} {pooled}"] = "nothing"
            except Exception as error:
                found[f"{way} {pooled}"] = f"{type(error).__name__}: {error}"
        limits = {name: ParameterConstraints(sharding_types=["table_column_wise"]) for name in ("t0", "t1", "t2")}
        topology = Topology(world_size=1, compute_device="cpu", local_world_size=1)
        try:
            EmbeddingShardingPlanner(topology, constraints=limits).plan(
                model(pooled, "host"), [EmbeddingCollectionSharder()]
            )  # pyright: ignore[reportArgumentType]
            found[f"planner {pooled}"] = "nothing"
        except Exception as error:
            found[f"planner {pooled}"] = f"{type(error).__name__}: {error}"
    return found


def test_shardings_that_an_embedding_collection_does_not_have() -> None:
    (found,) = run_ranks(_no_sharding, 1)
    for row, told in found.items():
        expected = "No available sharding type" if row.startswith("planner") else "Sharding"
        assert expected in told and ("EmbeddingCollection" in told or "not supported" in told), found


def _replicated_and_unsharded() -> dict[str, Any]:
    """Tables in no plan: DDP's, with a warning; under a pipeline an error, since nothing can be traced."""
    logging.disable()
    found: dict[str, Any] = {}
    for sharders in (
        [EmbeddingBagCollectionSharder()],
        [EmbeddingBagCollectionSharder(), EmbeddingCollectionSharder()],
    ):
        dmp = DistributedModelParallel(model(True, "host"), device=CPU, sharders=sharders)  # TorchRec's own plan
        kind = f"{len(sharders)} sharders"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                for batch in DedupLoader(batches(2)):
                    dmp(batch)[0].backward()
                dmp.eval()
                found[f"{kind}, loop"] = [
                    str(w.message) for w in caught if "DedupEmbeddingBagCollection" in str(w.message)
                ]
            except Exception as error:
                found[f"{kind}, loop"] = f"{type(error).__name__}: {error}"
            try:
                pipeline = TrainPipelineSparseDist(dmp.train(), torch.optim.SGD(dmp.parameters(), lr=0.1), CPU)
                found[f"{kind}, pipeline"] = len(_losses(pipeline, DedupLoader(batches(2))))
            except Exception as error:
                found[f"{kind}, pipeline"] = f"{type(error).__name__}: {error}"
    return found


def test_a_list_of_sharders_without_the_one_for_collections() -> None:
    (found,) = run_ranks(_replicated_and_unsharded, 1)
    (warned,) = found["1 sharders, loop"]
    for told in (warned, found["1 sharders, pipeline"]):
        assert "needs an EmbeddingCollectionSharder()" in told and "collections.dim_8, collections.dim_16" in told
    assert found["1 sharders, pipeline"].startswith("TypeError"), found
    assert "holds its tables whole, a copy on every rank" in warned


def _quiet() -> list[str]:
    """Where tables are meant to be whole, nothing is said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (batch,) = DedupLoader(batches(1))
        model(True, "host").eval()(batch)
        shard(model(False, "host"))(batch)
    return [str(w.message) for w in caught if "Dedup" in str(w.message)]


def test_evaluation_and_sharded_tables_are_not_warned_of() -> None:
    assert run_ranks(_quiet, 1) == [[]]
