"""Two ranks on GPUs: on two if there are so many, otherwise both on the one.

NCCL refuses two ranks of a communicator on one GPU. From version 2.30 on NCCL_MULTI_RANK_GPU_ENABLE=1 allows it; any
version takes ranks that say they are on different hosts (NCCL_HOSTID) and lets them talk through sockets. Where both
are refused, the test says so. gloo moves tensors of a GPU through host memory, which works everywhere.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dist_rec.common.choices import DenseUpdate
from dist_rec.config import Config
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.training.ranks import Ranks
from tests.helpers.ranks import run_ranks
from tests.training.runs import assert_same_weights, losses, make_config, run, saved_weights, write_dataset

BACKENDS = {"gloo": "gloo", "nccl": "cpu:gloo,cuda:nccl"}
REFUSED = ("Duplicate GPU detected", "Multiple Ranks are using the same GPU", "invalid usage")
WAYS = [
    pytest.param("cpu", "gloo", id="rehearsal", marks=pytest.mark.slow),
    pytest.param("cuda", "gloo", id="gpu, gloo", marks=pytest.mark.gpu),
    pytest.param("cuda", "nccl", id="gpu, nccl", marks=pytest.mark.gpu),
]
TIMEOUT_S = 300.0  # kernels are compiled in it


def _share_the_gpu() -> None:
    """Before NCCL starts, if there are fewer GPUs than ranks. Each rank is then the only one of its host, for
    TorchRec too, which would give the second a GPU that is not there."""
    if torch.cuda.device_count() < dist.get_world_size():
        os.environ.update(
            LOCAL_RANK="0",
            LOCAL_WORLD_SIZE="1",
            NCCL_MULTI_RANK_GPU_ENABLE="1",
            NCCL_HOSTID=f"rank-{dist.get_rank()}",
            NCCL_NVLS_ENABLE="0",
            NCCL_MAX_CTAS="2",
        )


def _ranks(device: str, backend: str) -> Ranks:
    """This rank, on a GPU of its own or on the only one."""
    place = torch.device(device)
    if device == "cuda":
        _share_the_gpu()
        place = torch.device("cuda", dist.get_rank() % torch.cuda.device_count())
        torch.cuda.set_device(place)
        dist.all_reduce(torch.ones(1, device=place))  # says at once if NCCL refuses
    groups = [dist.new_group(backend=name) for name in ("gloo", backend)]
    assert all(isinstance(group, dist.ProcessGroup) for group in groups)
    return Ranks(dist.get_rank(), dist.get_world_size(), place, *groups)  # pyright: ignore[reportArgumentType]


def _on_two(fn: Any, device: str, backend: str, *args: Any) -> list[Any]:
    """Results of both ranks; skips the test with NCCL's own sentence if it refuses."""
    try:
        return run_ranks(fn, 2, device, backend, *args, backend=BACKENDS[backend], timeout_s=TIMEOUT_S)
    except AssertionError as error:
        said = [line for line in str(error).splitlines() if any(sign in line for sign in REFUSED)]
        if backend == "nccl" and said and torch.cuda.device_count() < 2:
            pytest.skip(f"NCCL refuses two ranks on one GPU: {said[-1].strip()}")
        raise


def _config(data: Path, out: Path, /, **changes: Any) -> Config:
    precision = dict.fromkeys(("tokens", "layers", "head"), "fp32")
    tables = {"item": {"sharding": ["row_wise"]}, "kind": {"sharding": ["data_parallel"]}}
    return make_config(
        data,
        out,
        data={"batch_size": 4},
        model={"precision": precision},
        embedding={"tables": tables},
        **changes,
    )


def _train(device: str, backend: str, data: Path, out: Path, start: Path) -> dict[str, Tensor]:
    """Runs that go on after step 2, each kind of update twice; this rank's dense weights after one more."""
    ranks = _ranks(device, backend)
    for update in ("sync", "delayed"):
        for again in range(2):
            config = _config(data, out, optim={"dense_update": update})
            run(config, ranks, f"{device}-{backend}-{update}-{again}", resume=start / update / "checkpoints" / "step-2")
    return _dense(ranks)


def _dense(ranks: Ranks) -> dict[str, Tensor]:
    """Weights after delayed steps with gradients that differ between the ranks."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 1)).to(ranks.device)
    optimizer = HybridOptimizer(
        net,
        lambda p: torch.optim.AdamW(p, lr=0.1),
        dense_update="delayed",
        warmup_sync_steps=1,
        group=ranks.dense_group,
    )
    for step in range(4):
        optimizer.zero_grad()
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(10 * step + ranks.rank)).to(ranks.device)
        net(x).square().sum().backward()
        optimizer.step()
    optimizer.flush()
    return {name: value.detach().cpu() for name, value in net.named_parameters()}


def _start(device: str, backend: str, data: Path, out: Path) -> None:
    ranks = _ranks(device, backend)
    for update in ("sync", "delayed"):
        run(_config(data, out, optim={"dense_update": update}, checkpoint={"every_steps": 2}), ranks, update)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Data, and the folder of two runs on the CPU with a checkpoint after step 2."""
    out = tmp_path_factory.mktemp("started")
    data = write_dataset(out / "data")
    run_ranks(_start, 2, "cpu", "gloo", data, out)
    return data, out


@pytest.mark.parametrize(("device", "backend"), WAYS)
def test_two_ranks_train_as_on_the_cpu(started: tuple[Path, Path], tmp_path: Path, device: str, backend: str) -> None:
    """From the same checkpoint: the losses of the CPU, the same bits twice, and the same weights on both ranks."""
    data, start = started
    first, second = _on_two(_train, device, backend, data, tmp_path, start)
    assert_same_weights(first, second)
    updates: list[DenseUpdate] = ["sync", "delayed"]
    for update in updates:
        config = _config(data, tmp_path, optim={"dense_update": update})
        once, again = (f"{device}-{backend}-{update}-{number}" for number in range(2))
        expected = losses(_config(data, start), update)[2:]
        assert losses(config, once) == pytest.approx(expected, rel=1e-5) and len(expected) == 4
        assert losses(config, once) == losses(config, again)
        assert_same_weights(saved_weights(config, once), saved_weights(config, again))
