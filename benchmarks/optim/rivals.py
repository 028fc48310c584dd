"""Other ways to take the dense all-reduce off the critical path, built on stock parts where no release has them.

`LateWait` is DDP whose all-reduces are waited for just before the dense step. `Sharded` is ZeRO with the schedule of
FSDP2: gradients are reduce-scattered inside the backward, and new weights gathered while the next step waits for ids
and computes earlier layers. Neither changes the mathematics. `without_streams` lets TorchRec's pipelines run on a CPU.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed.train_pipeline import TrainPipelineFusedSparseDist
from torchrec.distributed.train_pipeline.pipeline_context import EmbeddingTrainPipelineContext
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper


@contextmanager
def without_streams() -> Iterator[None]:
    """TorchRec's pipelines ask CUDA for streams and events even on a CPU, where the order of the program is that of the
    work. Here they get those of `torch.cpu`, which do nothing."""
    with ExitStack() as stack:
        for name in ("current_stream", "stream", "Event"):
            stack.enter_context(mock.patch.object(torch.cuda, name, getattr(torch.cpu, name)))
        stack.enter_context(mock.patch.object(Tensor, "record_stream", lambda tensor, stream: None))
        stack.enter_context(mock.patch.object(torch.cpu.Stream, "device", torch.device("cpu"), create=True))
        yield


class LateWait:
    """All-reduces DDP's buckets as DDP does, but in `wait()` waits for them, not at the end of the backward.

    DDP's own wait is the last thing of `backward()`. Here its communication hook starts the all-reduce in place of the
    bucket, and gives DDP a future that is done already; `p.grad` is a view of the bucket and is right after `wait()`.

    Args:
        ddp: with `gradient_as_bucket_view=True`, as TorchRec wraps, and no communication hook.
        group: of the all-reduces; not TorchRec's, whose all-to-alls would wait behind them.

    Comm: one all-reduce per bucket over `group`.
    """

    def __init__(self, ddp: DistributedDataParallel, group: dist.ProcessGroup) -> None:
        if not ddp.gradient_as_bucket_view:
            raise ValueError("LateWait: expected DDP with gradient_as_bucket_view=True; gradients would be copies")
        self._group, self._works = group, list[dist.Work]()
        ddp.register_comm_hook(self, _start)

    def start(self, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        buffer = bucket.buffer().div_(dist.get_world_size(self._group))
        work = dist.all_reduce(buffer, group=self._group, async_op=True)
        assert work is not None
        self._works.append(work)
        done: torch.futures.Future[Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    def wait(self) -> None:
        for work in self._works:
            work.wait()
        self._works.clear()


def _start(late: LateWait, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    return late.start(bucket)  # DDP reads the hook's annotations, and a method has one parameter more


class Before(KeyedOptimizer):
    """Calls `calls` in order before each step of `optimizer`."""

    def __init__(self, optimizer: CombinedOptimizer, *calls: Callable[[], None]) -> None:
        super().__init__(optimizer.params, optimizer.state, optimizer.param_groups)
        self._optimizer, self.calls = optimizer, list(calls)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._optimizer.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> None:
        for call in self.calls:
            call()
        self._optimizer.step()


class EarlyLookup(TrainPipelineFusedSparseDist):
    """Starts the lookup of the next batch, and the all-to-all of its rows, before the dense step instead of after it.

    Tables are updated inside the backward, so the rows are those of `TrainPipelineSparseDist`. It is the most that a
    late wait can be put behind without staleness: the all-to-all of the next rows runs beside the all-reduce. The
    optimizer has to be a `Before`.
    """

    def __init__(self, model: nn.Module, optimizer: Before, device: torch.device) -> None:
        super().__init__(model, optimizer, device)
        self._started = -1
        optimizer.calls.insert(0, self._start_next)

    def _start_next(self) -> None:
        if len(self.batches) >= 2:
            self.start_embedding_lookup(self.batches[1], self.contexts[1])  # pyright: ignore[reportArgumentType]

    def start_embedding_lookup(self, batch: Any, context: EmbeddingTrainPipelineContext) -> None:
        if context.index != self._started:
            self._started = context.index
            super().start_embedding_lookup(batch, context)


class _Unit:
    """The parameters of one layer in a flat tensor, of which every rank updates one part.

    P parameters padded to a multiple of R ranks: `flat` (P,), `shard` (P / R,).
    """

    def __init__(self, layer: nn.Module, group: dist.ProcessGroup) -> None:
        self._group, self._ranks = group, dist.get_world_size(group)
        self._parameters, self._missing = list(layer.parameters()), 0
        numel = sum(p.numel() for p in self._parameters)
        self.flat = torch.zeros(-(-numel // self._ranks) * self._ranks)
        start = 0
        for parameter in self._parameters:
            place = self.flat[start : start + parameter.numel()]
            place.copy_(parameter.detach().flatten())
            parameter.data = place.view_as(parameter)
            parameter.register_post_accumulate_grad_hook(self._on_gradient)
            start += parameter.numel()
        dist.broadcast(self.flat, 0, group=group)
        self.shard = nn.Parameter(self.flat.view(self._ranks, -1)[dist.get_rank(group)].clone())
        self._received, self._sent = torch.empty_like(self.flat), torch.zeros_like(self.flat)
        self._exchange: dist.Work | None = None
        self._gather: dist.Work | None = None
        self._missing = len(self._parameters)
        layer.register_forward_pre_hook(lambda *_: self.wait_for_weights())

    def _on_gradient(self, parameter: Tensor) -> None:
        self._missing -= 1
        if self._missing:
            return
        self._missing, start = len(self._parameters), 0
        for member in self._parameters:
            assert member.grad is not None
            self._sent[start : start + member.numel()] = member.grad.flatten()
            member.grad, start = None, start + member.numel()
        # gloo has no reduce-scatter that sends less than an all-reduce: every rank sends each other one its part.
        self._exchange = dist.all_to_all_single(self._received, self._sent, group=self._group, async_op=True)

    def take_gradient(self) -> None:
        assert self._exchange is not None, "a backward has computed gradients of the layer"
        self._exchange.wait()
        self.shard.grad = self._received.view(self._ranks, -1).mean(0)

    def start_gather(self) -> None:
        self._gather = dist.all_gather_into_tensor(self.flat, self.shard.detach(), group=self._group, async_op=True)

    def wait_for_weights(self) -> None:
        if self._gather is not None:
            self._gather.wait()
            self._gather = None


class Sharded(KeyedOptimizer):
    """Dense optimizer state divided among the ranks; weights stay whole on each.

    Args:
        fused: optimizer of the tables, which steps beside.
        layers: name -> layer, in the order of the forward. All parameters of a layer get a gradient in each backward.
            DDP must not wrap them.
        dense: creates a torch optimizer that updates element by element, from a list of parameters.
        group: of its collectives; not TorchRec's.

    Comm: per step and layer a reduce-scatter of the gradients, inside the backward, and an all-gather of the weights,
    waited for where the next forward enters the layer. Together as many bytes as an all-reduce.
    """

    def __init__(
        self,
        fused: KeyedOptimizer,
        layers: dict[str, nn.Module],
        dense: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        group: dist.ProcessGroup,
    ) -> None:
        self._units = {name: _Unit(layer, group) for name, layer in layers.items()}
        shards = {name: unit.shard for name, unit in self._units.items()}
        self._optimizer = CombinedOptimizer([fused, KeyedOptimizerWrapper(shards, lambda p: dense(list(p)))])
        super().__init__(self._optimizer.params, self._optimizer.state, self._optimizer.param_groups)

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._optimizer.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> None:
        for unit in self._units.values():
            unit.take_gradient()
        self._optimizer.step()
        for unit in self._units.values():
            unit.start_gather()

    def wait_for_weights(self) -> None:
        """Before weights are read outside of a forward."""
        for unit in self._units.values():
            unit.wait_for_weights()
