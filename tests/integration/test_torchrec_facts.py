"""What documents and comments say that TorchRec and FBGEMM do, each with the place that relies on it.

Holds for TorchRec 1.8 with torch 2.13 and for TorchRec 1.9 with torch 2.14; where they differ, both are said. A fact
that changes is a reason to look at its place again. More facts are where they are used: separate DDP of replicated
tables (test_hybrid_in_torchrec.py), shardings that an EmbeddingCollection does not have (test_torchrec_table.py),
buckets that DDP rebuilds (test_delayed_trajectories.py).
"""

import logging
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any
from unittest import mock

import pytest
import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_training import WeightDecayMode
from torch import Tensor, nn
from torchrec.distributed import sharding_plan
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import Topology
from torchrec.distributed.train_pipeline import (
    PrefetchTrainPipelineSparseDist,
    TrainPipelineSparseDist,
    train_pipelines,
)
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.modules.hash_mc_modules import HashZchManagedCollisionModule
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.keyed import KeyedOptimizerWrapper
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from tests.helpers.ranks import run_ranks
from tests.integration import jobs

BEFORE_1_9 = tuple(int(part) for part in version("torchrec").split(".")[:2]) < (1, 9)
CPU = torch.device("cpu")


class Holder(nn.Module):
    def __init__(self, collection: nn.Module) -> None:
        super().__init__()
        self.ec = collection

    def forward(self, features: KeyedJaggedTensor) -> Any:
        return self.ec(features)


def _sequences(dim: int = 4) -> EmbeddingCollection:
    table = EmbeddingConfig(name="t", num_embeddings=6, embedding_dim=dim, feature_names=["f"])
    return EmbeddingCollection(tables=[table], device=CPU)


def _bags() -> EmbeddingBagCollection:
    table = EmbeddingBagConfig(name="t", num_embeddings=6, embedding_dim=4, feature_names=["f"])
    return EmbeddingBagCollection(tables=[table], device=CPU)


def _features(*lengths: int) -> KeyedJaggedTensor:
    sizes = torch.tensor(lengths, dtype=torch.int32)
    return KeyedJaggedTensor(["f"], torch.arange(int(sizes.sum())) % 6, lengths=sizes)


def _shard(
    collection: Any,
    way: Any,
    optimizer: type[torch.optim.Optimizer] | None = torch.optim.SGD,
    fused: dict[str, Any] | None = None,
    **options: Any,
) -> DistributedModelParallel:
    """On one rank."""
    held = Holder(collection)
    if optimizer is not None:
        apply_optimizer_in_backward(optimizer, held.parameters(), {"lr": 0.1, **options})
    sharders: list[Any] = [EmbeddingCollectionSharder(fused), EmbeddingBagCollectionSharder(fused)]
    sharder = sharders[isinstance(collection, EmbeddingBagCollection)]
    plan = sharding_plan.construct_module_sharding_plan(collection, {"t": way}, sharder, 1, 1, device_type="cpu")
    return DistributedModelParallel(held, device=CPU, plan=ShardingPlan({"ec": plan}), sharders=sharders)


def _weight(dmp: DistributedModelParallel) -> Tensor:
    (state,) = dmp.state_dict().values()
    return state.local_shards()[0].tensor.clone()


def _said(call: Callable[[], Any]) -> str:
    """How a call fails."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _kept(collection: Any) -> bool:
    before = collection.state_dict()
    return torch.equal(_weight(_shard(collection, sharding_plan.table_wise(rank=0))), next(iter(before.values())))


def _decay(optimizer: type[torch.optim.Optimizer], fused: dict[str, Any] | None) -> bool:
    """Whether a step with gradients of zero changes rows."""
    dmp = _shard(_sequences(), sharding_plan.table_wise(rank=0), optimizer, fused, weight_decay=0.5)
    before = _weight(dmp)
    (dmp(_features(2, 1))["f"].values() * 0.0).sum().backward()
    return not torch.equal(_weight(dmp), before)


def _pooled_as_before(way: str) -> dict[str, bool]:
    """Of bags whose key `a` two tables share."""
    expected = jobs.bags()(jobs.features(0)).to_dict()
    found = jobs.shard(Holder(jobs.bags()), way)(jobs.features(0)).to_dict()
    return {name: torch.allclose(found[name], expected[name]) for name in expected}


def _pipeline(kind: Any, **options: Any) -> Any:
    dmp = jobs.shard(jobs.model(False, "none"), "table_wise")
    return kind(dmp, jobs.dense_of(dmp), CPU, **options)


def _started_again() -> tuple[int, int]:
    """Batches in flight, and input dists that `attach()` starts for them."""
    pipeline = _pipeline(TrainPipelineSparseDist)
    pipeline.progress(iter(jobs.batches(6)))
    pipeline.detach()
    with mock.patch.object(pipeline, "start_sparse_data_dist", wraps=pipeline.start_sparse_data_dist) as started:
        pipeline.attach()
    return len(pipeline.batches), started.call_count


def _prefetch_without_streams(context: Any, modules: Any, *_: Any) -> None:
    for module in modules:
        forward = module.forward
        found = context.input_dist_tensors_requests.pop(forward._name).wait()
        context.module_input_post_prefetch[forward._name] = found
        context.module_contexts_post_prefetch[forward._name] = context.module_contexts.pop(forward._name)


def _two_rounds(kind: Any) -> None:
    """With a `detach()` after each."""
    with mock.patch.object(train_pipelines, "prefetch_embeddings", _prefetch_without_streams):
        pipeline = _pipeline(kind)
        for _ in range(2):
            batches = iter(jobs.batches(3))
            with pytest.raises(StopIteration):
                while True:
                    pipeline.progress(batches)
            pipeline.detach()


def _semi_sync() -> None:
    pipeline = _pipeline(train_pipelines.TrainPipelineSemiSync, stash_gradients=True)
    batches = iter(jobs.batches(4))
    pipeline.progress(batches)


def _waits_for_lengths(**known: Any) -> bool:
    """Whether splitting features reads lengths, which are on the device, on the host."""
    lengths = torch.tensor([1, 2], dtype=torch.int32)
    features = KeyedJaggedTensor(["a", "b"], torch.arange(3), lengths=lengths, stride=1, **known)
    real, read = Tensor.tolist, mock.Mock()

    def tolist(tensor: Tensor) -> Any:
        read()
        return real(tensor)

    with mock.patch.object(Tensor, "tolist", tolist):
        features.split([1, 1])
    return read.called


def _one_rank() -> dict[str, Any]:
    logging.disable()
    warnings.simplefilter("ignore")
    named = {"weight_decay_mode": WeightDecayMode.DECOUPLE}
    table_wise = sharding_plan.table_wise(rank=0)
    return {
        "no samples": _said(lambda: _features().to_dict()),
        "no samples, sharded": _said(lambda: _shard(_sequences(), sharding_plan.row_wise())(_features())),
        "data-parallel": _said(lambda: _shard(_sequences(), sharding_plan.data_parallel(), None)(_features(2, 1))["f"]),
        "weights kept": (_kept(_sequences()), _kept(_bags())),
        "decay": [_decay(kind, fused) for kind in (RowWiseAdagrad, torch.optim.SGD) for fused in (None, named)],
        "adam": _said(lambda: _shard(_sequences(), table_wise, torch.optim.Adam)(_features(2, 1))),
        "shared": {way: _pooled_as_before(way) for way in ("row_wise", "table_wise")},
        "attach": _started_again(),
        "rounds": [_said(lambda kind=kind: _two_rounds(kind)) for kind in PIPELINES],
        "semi": _said(_semi_sync),
        "wide": _shard(_sequences(1028), table_wise)(_features(2, 1))["f"].values().abs().sum(1).min().item(),
    }


PIPELINES = (TrainPipelineSparseDist, PrefetchTrainPipelineSparseDist)


@pytest.fixture(scope="module")
def one_rank() -> dict[str, Any]:
    return run_ranks(_one_rank, 1)[0]


def test_features_without_samples(one_rank: dict[str, Any]) -> None:
    """DESIGN.md "One stride-1 KeyedJaggedTensor"; `_by_key` in data/unique_features.py."""
    assert ("IndexError" in one_rank["no samples"]) == BEFORE_1_9
    assert "cannot reshape tensor of 0 elements" in one_rank["no samples, sharded"]


def test_a_data_parallel_collection_pools_on_a_cpu(one_rank: dict[str, Any]) -> None:
    """DESIGN.md "Data-parallel tables are plain embeddings": three ids of two samples give two rows."""
    assert "sum exactly to 2" in one_rank["data-parallel"] and "split_sizes=[3]" in one_rank["data-parallel"]


def test_weights_that_sharding_keeps(one_rank: dict[str, Any]) -> None:
    """`DedupEmbeddingBagCollection`: those of sequences; bags on a CPU draw new ones."""
    assert one_rank["weights kept"] == (True, False)


def test_rows_decay_where_the_mode_is_named(one_rank: dict[str, Any]) -> None:
    """DESIGN.md "Row weight decay names its mode": row-wise Adagrad without and with it, then SGD."""
    assert one_rank["decay"] == [False, True, False, False]


def test_no_fused_adam_on_a_cpu(one_rank: dict[str, Any]) -> None:
    """embedding/optimizers.py"""
    assert "adam is not supported in CPU mode" in one_rank["adam"]


def test_bags_that_share_a_key_row_wise(one_rank: dict[str, Any]) -> None:
    """docs/plug-ins.md: other rows for the second table of key `a`."""
    assert one_rank["shared"]["row_wise"] == {"a@t0": True, "b": True, "c": True, "a@t2": False}
    assert all(one_rank["shared"]["table_wise"].values())


def test_attach_starts_batches_in_flight_again(one_rank: dict[str, Any]) -> None:
    """DESIGN.md "The pipeline is drained at every stop": of two batches the one whose input dist was started."""
    assert one_rank["attach"] == (2, 1)


def test_only_the_prefetching_pipeline_has_to_be_attached_again(one_rank: dict[str, Any]) -> None:
    """`run_through` in training/pipeline.py"""
    assert not one_rank["rounds"][0] and "no attribute 'set_context'" in one_rank["rounds"][1]


def test_the_pipeline_that_stashes_needs_streams(one_rank: dict[str, Any]) -> None:
    """`without_streams` in benchmarks/optim/rivals.py"""
    assert ("RuntimeError" if BEFORE_1_9 else "AttributeError") in one_rank["semi"]


def test_wide_rows_are_looked_up_on_a_cpu(one_rank: dict[str, Any]) -> None:
    """`RowWidth` in config.py: the limit is that of the GPU."""
    assert one_rank["wide"] > 0.0


def test_memory_that_the_planner_counts_on() -> None:
    """`make_plan` in embedding/plan.py: without the size of the card."""
    (device,) = Topology(world_size=1, compute_device="cuda").devices
    assert (device.storage.hbm, device.storage.ddr) == (32 * 2**30, 128 * 2**30)


def test_lengths_per_key_save_a_wait() -> None:
    """`deduplicated` in data/unique_tokens.py"""
    assert _waits_for_lengths() and not _waits_for_lengths(length_per_key=[1, 2])


def test_initialising_the_state_makes_a_step() -> None:
    """`init_state` of `HybridOptimizer`: TorchRec's decays weights by it."""
    weight = nn.Parameter(torch.ones(2))
    KeyedOptimizerWrapper({"weight": weight}, lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.5)).init_state()
    assert weight.tolist() == pytest.approx([0.95, 0.95])


def _cleared() -> dict[str, str]:
    logging.disable()
    warnings.simplefilter("ignore")
    found = {}
    for way in ("table_wise", "column_wise", "row_wise"):
        dmp = jobs.shard(jobs.model(False, "none"), way)
        pipeline = TrainPipelineSparseDist(dmp, jobs.dense_of(dmp), CPU, clear_data_dist_inputs=True)
        batches = iter(jobs.batches(3))
        found[way] = _said(lambda run=pipeline, batches=batches: run.progress(batches))
    return found


def test_cleared_inputs_are_still_read() -> None:
    """`_arrived` in embedding/dedup_lookup.py: by sharded collections that are not row-wise, on more than one rank."""
    for found in run_ranks(_cleared, 2):
        assert all("out of bounds for storage of size 0" in found[way] for way in ("table_wise", "column_wise")), found
        assert not found["row_wise"]


def test_managed_collisions_only_read_on_a_cpu() -> None:
    """Relies on it: embedding/dynamic_ids.py."""
    mapped = HashZchManagedCollisionModule(8, CPU, total_num_buckets=1, max_probe=4)
    assert mapped._hash_zch_identities.unique().tolist() == [-1], "an empty slot looks as the id -1"
    ids = {"f": JaggedTensor(values=torch.tensor([5]), lengths=torch.tensor([1]))}
    with pytest.raises(RuntimeError, match="Expected readonly to be true"):
        mapped.remap(ids)
    mapped.eval()
    assert 0 <= int(mapped.remap(ids)["f"].values()) < 8, "an unknown id gets a row that another one may have"
