"""Gradients from the start of their all-reduce until they are applied."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.profiler import record_function

from dist_rec.optim.buckets import Bucket
from dist_rec.optim.process_groups import start_all_reduce


class PendingReduce:
    """The all-reduce of one step's gradients, bucket by bucket.

    `DelayedAllReduce` fills it during the backward and calls `launch` when all buckets are started. After that `wait`
    returns the mean gradients, and `release` frees the buffers for later steps. `order`: indices of `buckets` in the
    order in which they start, the same on every rank; the `late` last ones start after the backward.
    """

    def __init__(self, buckets: list[Bucket], order: list[int], late: int = 0) -> None:
        self.buckets, self.pending_buckets, self.late = list(buckets), order, late
        self.buffers: dict[int, Tensor] = {}  # by index of a started bucket
        self.works: list[dist.Work] = []
        self.present: dict[str, bool] = {}  # by parameter of a started bucket: whether this rank has a gradient
        self.ready: set[str] = set()  # parameters with a gradient from any backward of this step
        self.complete: set[str] = set()  # parameters with a gradient from the last backward of this step
        self.taken: dict[str, Tensor] = {}  # gradients taken out of p.grad whose bucket has not started
        self.replaced: set[str] = set()  # parameters whose p.grad is a placeholder
        self.backwards: list[int] = []  # autograd's ids of this step's backwards; a nested one is larger
        self.dropped = self.changed = False
        self.names: dict[str, None] = {}  # in the order of the parameters
        self.everywhere: set[str] = set()  # after `wait`: parameters with a gradient on every rank
        self._done: torch.Event | None = None  # on a GPU: all collectives and the norm are finished
        self._means: dict[str, Tensor] = {}
        self._norm: Tensor | None = None

    def launch(self, names: Iterable[str], side: torch.cuda.Stream | None, hosts: dist.ProcessGroup | None) -> None:
        """Starts the all-reduce of the flags, after all buckets. On a GPU, queues the norm on `side` behind the
        collectives.

        Args:
            names: all parameters, in the same order on every rank.
            side: stream that waits for the collectives; None on a CPU.
            hosts: group that reduces the flags; None with one rank.
        """
        self.names = dict.fromkeys(name for name in names if name in self.present)
        here = [self.present[name] and not self.dropped for name in self.names]
        self._flags = torch.tensor([*here, self.dropped, self.changed, True], dtype=torch.int32)
        self._flag_work = start_all_reduce(self._flags, hosts) if hosts is not None else None
        if side is None:
            return
        # With the norm copied on a side stream, the host can check it without waiting for the kernels it queues
        # meanwhile. Buffers that nobody waits for, as of an optimizer that is gone, must outlive their collectives.
        for buffer in self.buffers.values():
            buffer.record_stream(side)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for work in self.works:
                work.wait()
            self._means = self._views()
            self._norm = total_norm(self.names, self._means)
            self._host_norm = torch.empty((), dtype=self._norm.dtype, pin_memory=True)
            self._host_norm.copy_(self._norm, non_blocking=True)
            self._done = side.record_event()

    def wait(self) -> dict[str, Tensor]:
        """Mean gradient by parameter name, as views of the buffers; omits parameters without a gradient on every rank.

        Raises:
            RuntimeError: if only some of the ranks dropped the gradients or changed the previous ones.
        """
        with record_function("dense all-reduce: wait"):
            if self._done is not None:
                # An event, not the stream: later steps may already have queued work on the side stream.
                current = torch.cuda.current_stream()
                current.wait_event(self._done)
                for made_there in (*self._means.values(), self._norm):
                    assert made_there is not None, "set with the event"
                    made_there.record_stream(current)
            else:
                for work in self.works:
                    work.wait()
                self._means = self._views()
            if self._flag_work is not None:
                self._flag_work.wait()
        *flags, dropped, changed, ranks = self._flags.tolist()
        if dropped not in (0, ranks):
            raise RuntimeError(
                f"zero_grad() between backward() and step() on {dropped} of {ranks} ranks: a gradient is dropped by "
                "all ranks or by none; expected all of them to call it"
            )
        if changed not in (0, ranks):
            raise RuntimeError(
                f"p.grad was changed (clipped, for example) between backward() and step() on {changed} of {ranks} "
                "ranks, so that their weights differ now; a rank without data finds nothing there. Expected clip_norm "
                "in its place"
            )
        self.everywhere = {name for name, flag in zip(self.names, flags, strict=True) if flag == ranks}
        return {name: self._means[name] for name, flag in zip(self.names, flags, strict=True) if flag > 0}

    def norm(self) -> Tensor:
        """Norm of all mean gradients as one vector, a () tensor on their device. Call after `wait`."""
        return total_norm(self.names, self._means) if self._norm is None else self._norm

    def is_finite(self, norm: Tensor) -> bool:
        """Whether `norm()` is finite; the same on every rank, because the means are. On a GPU the host waits for these
        collectives, but not for the kernels queued after them."""
        if self._done is None:
            return bool(norm.isfinite())
        self._done.synchronize()
        return bool(self._host_norm.isfinite())

    def release(self) -> None:
        """Frees the buffers for later steps. The views that `wait` returned must not be used any more."""
        for index, buffer in self.buffers.items():
            self.buckets[index].give_back(buffer)

    def _views(self) -> dict[str, Tensor]:
        """Gradients of all buckets, in the dtype of their parameters."""
        found: dict[str, Tensor] = {}
        for index, bucket in enumerate(self.buckets):
            found |= dict(bucket.views(self.buffers[index].to(bucket.dtype)))
        return found


@dataclass
class DelayedGradient:
    """A step's gradient that is not applied yet.

    reduce: its all-reduce; None if DDP reduced it or if it was loaded from a checkpoint.
    gradients: the mean gradients by parameter name; None before the all-reduce was waited for.
    """

    reduce: PendingReduce | None
    gradients: dict[str, Tensor] | None = None


def total_norm(names: Iterable[str], gradients: Mapping[str, Tensor]) -> Tensor:
    """Norm of all gradients as one vector, a () tensor. A missing gradient counts as zero, so that the sum has the same
    terms, and the same bits, whether or not a missing gradient is already known to be missing."""
    zero = next(iter(gradients.values())).new_zeros(())
    return nn.utils.get_total_norm([gradients.get(name, zero) for name in names])


def is_finite(norm: Tensor, reduce: PendingReduce | None, *, read: bool) -> Tensor | bool:
    """Whether a norm, perhaps of what `reduce` gave, is finite: on a GPU a () bool that the host does not read, unless
    it has to (`read`)."""
    if norm.device.type != "cpu" and not read:
        return norm.isfinite()
    return bool(norm.isfinite()) if reduce is None else reduce.is_finite(norm)
