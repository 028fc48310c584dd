import itertools
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed.train_pipeline.train_pipelines import TrainPipelineFusedSparseDist

from benchmarks.optim import rivals, slow_link_rank
from benchmarks.optim.rivals import Before, EarlyLookup, LateWait, Sharded, without_streams
from tests.helpers.ranks import run_ranks


class _Logged:
    """A work that writes its wait into a list."""

    def __init__(self, work: Any, log: list[str], name: str) -> None:
        self._work, self._log, self._name = work, log, name

    def wait(self) -> None:
        self._log.append(f"wait {self._name}")
        self._work.wait()


def _logged(log: list[str], name: str) -> Any:
    """Patches a collective of torch.distributed, as `rivals` calls it."""
    real: Callable[..., Any] = getattr(dist, name)

    def call(*arguments: Any, **options: Any) -> _Logged:
        log.append(name)
        return _Logged(real(*arguments, **options), log, name)

    return mock.patch.object(rivals.dist, name, call)


def _late() -> tuple[list[str], list[float]]:
    log: list[str] = []
    ddp = DistributedDataParallel(nn.Linear(3, 2), gradient_as_bucket_view=True)
    group = dist.new_group()
    assert isinstance(group, dist.ProcessGroup)
    late = LateWait(ddp, group)
    with _logged(log, "all_reduce"):
        for step in range(3):  # DDP lays its buckets out anew after the first
            ddp.zero_grad()
            (ddp(torch.full((1, 3), float(dist.get_rank() + step))).sum()).backward()
            log.append("backward is over")
            late.wait()
    weight = ddp.module.weight.grad
    assert isinstance(weight, Tensor)
    return log, weight.flatten().tolist()


def test_a_late_wait_comes_after_the_backward_and_gives_the_mean() -> None:
    for world_size, mean in ((1, 2.0), (2, 2.5)):
        for log, gradient in run_ranks(_late, world_size):
            assert log == ["all_reduce", "backward is over", "wait all_reduce"] * 3
            assert gradient == [mean] * 6


def _refused() -> str:
    with pytest.raises(ValueError, match="expected DDP with gradient_as_bucket_view=True") as error:
        LateWait(DistributedDataParallel(nn.Linear(3, 2)), dist.group.WORLD)  # pyright: ignore[reportArgumentType]
    return str(error.value)


def test_gradients_that_are_copies_are_refused() -> None:
    assert run_ranks(_refused, 1)[0].startswith("LateWait: ")


def _lookups() -> list[Any]:
    for name, value in {"BATCH": 8, "WIDTH": 24, "LAYERS": 1}.items():
        setattr(slow_link_rank, name, value)
    log: list[Any] = []
    real = TrainPipelineFusedSparseDist.start_embedding_lookup

    def start(pipeline: Any, batch: Any, context: Any) -> None:
        log.append(context.index)
        real(pipeline, batch, context)

    dmp = slow_link_rank.sharded(ddp=True)
    optimizer = Before(slow_link_rank.stock_optimizer(dmp), lambda: log.append("wait"))
    with without_streams(), mock.patch.object(TrainPipelineFusedSparseDist, "start_embedding_lookup", start):
        pipeline = EarlyLookup(dmp, optimizer, torch.device("cpu"))
        source = slow_link_rank.batches(4)
        for _ in range(3):
            pipeline.progress(source)
    return log


def test_the_next_batch_is_looked_up_once_and_before_the_late_wait() -> None:
    assert run_ranks(_lookups, 1) == [[0, 1, "wait", 2, "wait", 3, "wait"]]


class _Nothing:
    """In the place of the tables' optimizer."""

    params: dict[str, Any] = {}
    state: dict[str, Any] = {}
    param_groups: list[Any] = []

    def zero_grad(self, set_to_none: bool = True) -> None: ...
    def step(self, closure: Any = None) -> None: ...
    def post_load_state_dict(self) -> None: ...


def _divided(widths: tuple[int, ...], steps: int) -> tuple[list[Tensor], list[Tensor], list[str]]:
    """Weights after `steps` of divided and of whole AdamW, and the order of gathers and waits in the last step."""
    log: list[str] = []
    torch.manual_seed(0)
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    mine, whole = nn.Sequential(*layers), nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(widths)))
    whole.load_state_dict(mine.state_dict())
    group = dist.new_group()
    assert isinstance(group, dist.ProcessGroup)
    make = lambda p: torch.optim.AdamW(p, lr=0.1)  # noqa: E731
    names = {str(number): layer for number, layer in enumerate(layers)}
    with mock.patch.object(rivals, "CombinedOptimizer", _only_the_dense):
        divided = Sharded(_Nothing(), names, make, group)  # pyright: ignore[reportArgumentType]
    reference = make(list(whole.parameters()))
    torch.manual_seed(1)
    everything = torch.randn(steps, dist.get_world_size(), 4, widths[0])
    for batches in everything:
        log.clear()
        with _logged(log, "all_gather_into_tensor"):
            mine(batches[dist.get_rank()]).square().mean().backward()
            divided.step()
        whole(batches.flatten(0, 1)).square().mean().backward()
        reference.step()
        reference.zero_grad()
    order = list(log)
    divided.wait_for_weights()
    return list(mine.parameters()), list(whole.parameters()), order


def _only_the_dense(optimizers: list[Any]) -> Any:
    return optimizers[1]


WIDTHS = ((3, 3), (1, 1), (2, 5, 1), (4, 4, 4, 2))  # layers whose parameters two ranks cannot share evenly among them


def _all_divided() -> list[tuple[float, list[str]]]:
    found = []
    for widths in WIDTHS:
        mine, whole, log = _divided(widths, 4)
        found.append((max((a - b).abs().max().item() for a, b in zip(mine, whole, strict=True)), log))
    return found


@pytest.mark.parametrize("world_size", [1, 2])
def test_divided_state_gives_the_weights_of_whole_state(world_size: int) -> None:
    for rank in run_ranks(_all_divided, world_size):
        for widths, (difference, log) in zip(WIDTHS, rank, strict=True):
            assert difference < 1e-5, widths
            layers = len(widths) - 1
            waits, gathers = log[:layers], log[layers:]
            assert waits == ["wait all_gather_into_tensor"] * layers  # of the step before, in the forward
            assert gathers == ["all_gather_into_tensor"] * layers  # and no step waits for its own


def test_stand_ins_for_streams_go_away() -> None:
    before = (torch.cuda.current_stream, torch.cuda.Event, Tensor.record_stream)
    with without_streams():
        assert torch.cuda.current_stream() is torch.cpu.current_stream()
    assert (torch.cuda.current_stream, torch.cuda.Event, Tensor.record_stream) == before
    assert not hasattr(torch.cpu.Stream, "device")
