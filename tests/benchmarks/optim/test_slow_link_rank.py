from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.optim import ZeroRedundancyOptimizer

from benchmarks.optim import slow_link_rank
from benchmarks.optim.rivals import Before, Sharded, without_streams
from benchmarks.optim.slow_link_table import KINDS
from dist_rec.optim.hybrid import HybridOptimizer
from tests.helpers.ranks import run_ranks

STEPS, IDS = 6, 8
EXACT = ("late", "fused", "fused late", "zero", "sharded", "pec", "pec late")
# Of the module; few rows, so that batches share ids.
TOY = {
    "BATCH": 16,
    "WIDTH": 32,
    "LAYERS": 3,
    "ROWS": 5,
    "FORWARD_S": 0.0,
    "BACKWARD_S": 0.0,
}


def _weights(pipeline: Any) -> Tensor:
    if hasattr(pipeline._optimizer, "wait_for_weights"):
        pipeline._optimizer.wait_for_weights()
    found = [p.detach().flatten() for name, p in pipeline._model.named_parameters() if "mlp" in name]
    return torch.cat(found)


def _train() -> dict[str, tuple[Tensor, Tensor, float, float]]:
    """Dense weights after one step and after all, copies of them that the optimizer keeps as state and as gradients."""
    for name, value in TOY.items():
        setattr(slow_link_rank, name, value)
    slow_link_rank.WARM_UP = 0
    result, real = {}, slow_link_rank.sharded

    def same(**options: bool) -> Any:
        torch.manual_seed(0)
        return real(**options)

    slow_link_rank.sharded = same
    with without_streams():
        for kind, pipeline in slow_link_rank.pipelines().items():
            torch.manual_seed(10 + dist.get_rank())
            source = slow_link_rank.batches(IDS)
            pipeline.progress(source)
            first = _weights(pipeline).clone()
            for _ in range(STEPS - 1):
                pipeline.progress(source)
            last = _weights(pipeline).clone()
            result[kind] = (first, last, *_copies(pipeline, last.numel()))
    return result


def _copies(pipeline: Any, numel: int) -> tuple[float, float]:
    optimizer = pipeline._optimizer
    owner = optimizer._optimizer if isinstance(optimizer, (Before, Sharded)) else optimizer
    if isinstance(dense := getattr(owner, "optimizers", [None])[-1], tuple) and isinstance(
        dense[1]._optimizer, ZeroRedundancyOptimizer
    ):
        owner = dense[1]._optimizer.optim
    moments = [state[name] for state in owner.state.values() for name in state if "exp_avg" in name]
    kept = sum(gradient.numel() for gradient in getattr(pipeline, "_gradients", {}).values())
    if isinstance(pipeline._optimizer, HybridOptimizer):
        assert pipeline._optimizer.all_reduce is not None
        kept = pipeline._optimizer.all_reduce.nbytes // 4
    return sum(moment.numel() for moment in moments) / numel, kept / numel


@pytest.fixture(scope="module")
def trained() -> list[dict[str, tuple[Tensor, Tensor, float, float]]]:
    return run_ranks(_train, 2)


def test_every_kind_has_a_row(trained: list[dict[str, Any]]) -> None:
    assert set(KINDS) - set(trained[0]) in (set(), {"pec", "pec late"})  # TorchRec 1.8 has no TrainPipelinePEC


def test_what_is_not_stale_has_the_weights_of_ddp(trained: list[dict[str, Any]]) -> None:
    for kind in EXACT:
        for rank in trained if kind in trained[0] else ():
            torch.testing.assert_close(rank[kind][1], rank["sync"][1], rtol=1e-6, atol=1e-7)
            assert KINDS[kind].stale == "none"


def test_what_is_stale_has_other_weights_and_the_same_on_all_ranks(trained: list[dict[str, Any]]) -> None:
    for kind in ("semi", "semi late", "stash", "delayed"):
        assert torch.equal(trained[0][kind][1], trained[1][kind][1])
        assert not torch.allclose(trained[0][kind][1], trained[0]["sync"][1], rtol=1e-5, atol=1e-6), kind
    torch.testing.assert_close(trained[0]["semi"][1], trained[0]["semi late"][1], rtol=1e-6, atol=1e-7)
    assert not torch.equal(trained[0]["none"][1], trained[1]["none"][1])


def test_whose_dense_weights_are_a_step_late(trained: list[dict[str, Any]]) -> None:
    start = trained[0]["delayed"][0]  # the first step applies nothing
    for kind, (first, *_) in trained[0].items():
        assert torch.equal(first, start) == ("dense" in KINDS[kind].stale), kind


def test_copies_of_the_dense_weights(trained: list[dict[str, Any]]) -> None:
    """What the table says of state; of gradients, what is kept beside those of DDP, or of the backward."""
    for kind in ("sync", "late", "fused late", "semi", "stash"):
        assert trained[0][kind][2] == 2 == float(KINDS[kind].state)
    assert sum(rank["zero"][2] for rank in trained) == 2  # both moments, of whole parameters, divided
    assert trained[0]["sharded"][2] == 1
    assert trained[0]["stash"][3] == 1
    assert trained[0]["delayed"][3] == 2 == float(KINDS["delayed"].gradients) - 1
