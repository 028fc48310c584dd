"""All-reduce of dense gradients that starts inside the backward and may be waited for a step later.

A bucket leaves as soon as the backward has all of its gradients, and always after the bucket before it, so that every rank
issues the same collectives in the same order, with whatever parameters its batch happened to use. Gradients are kept by
parameter name: nothing depends on how DDP would bucket them, which it changes after its first step.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.profiler import record_function

from dist_rec.optim.buckets import Bucket, lay_out

Compress = Literal["none", "bf16"]


class DelayedAllReduce:
    """Takes the gradients of `parameters` from every backward that is the last of its step.

    `start()`, after the backward, sends what has not left yet and returns the step's gradients as a `Flight`. From then on
    `p.grad` is None; the means come back from `Flight.wait()`, now or a step later. Several flights may be under way.

    Args:
        parameters: name -> parameter, the same names in the same order on every rank.
        group: carries the all-reduce, and nothing else if it is not to queue behind other collectives; None without ranks.
        host_group: gloo group of the same ranks. Which parameters have a gradient is told between the hosts: read from the
            device, those flags would make every step wait for it.
        backwards_per_step: gradients are divided by it (and by the number of ranks), as a mean over accumulated batches.
        bucket_cap_mb: largest bucket in MB of gradients.
        compress: `bf16` sends fp32 gradients in bf16; what the rounding takes away is kept in fp32 and added to the next
            step's gradient (error feedback).
        under_ddp: the parameters are DDP's as well, which wants `p.grad` until the end of the backward and fills in those that
            had none.

    Memory: with a step of delay two buffers as large as the gradients; `p.grad` is freed as its bucket leaves, so that this is
    one gradient more than training needs anyway. `nbytes` has the exact number.

    Comm: per step one all-reduce per bucket over `group`, and one of an int32 per parameter over `host_group`.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        group: dist.ProcessGroup | None,
        host_group: dist.ProcessGroup | None,
        *,
        backwards_per_step: int = 1,
        bucket_cap_mb: float = 25.0,
        compress: Compress = "none",
        under_ddp: bool = False,
    ) -> None:
        self._group, self._host_group = group, host_group
        self._world_size = dist.get_world_size(group) if dist.is_initialized() else 1
        self._divisor = self._world_size * backwards_per_step
        self._cap, self._wire = int(bucket_cap_mb * 1e6), torch.bfloat16 if compress == "bf16" else None
        self._under_ddp = under_ddp
        self.parameters: dict[str, nn.Parameter] = {}
        self._buckets: list[Bucket] = []
        self._bucket_of: dict[str, int] = {}
        self._errors: dict[int, Tensor] = {}  # by bucket: what compression has withheld so far
        self._flight: Flight | None = None
        self._side = None  # CUDA stream that follows the collectives
        self.active = True  # False: the next backward is not the last of its step
        self.add(parameters)

    def add(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """More parameters, in buckets of their own; between steps, on every rank alike.

        Raises:
            ValueError: for a name that is taken.
        """
        for name, parameter in parameters.items():
            if name in self.parameters:
                raise ValueError(f"{name} is reduced already")
            self.parameters[name] = parameter
            parameter.register_post_accumulate_grad_hook(lambda p, name=name: self._ready(name, p))
        for bucket in lay_out(parameters, self._cap, self._wire):
            self._bucket_of |= dict.fromkeys(bucket.parameters, len(self._buckets))
            self._buckets.append(bucket)
            if self._side is None and bucket.device.type == "cuda":
                self._side = torch.cuda.Stream(bucket.device)

    @property
    def nbytes(self) -> int:
        """Memory of all buffers, in bytes."""
        errors = sum(error.nbytes for error in self._errors.values())
        return sum(bucket.nbytes for bucket in self._buckets) + errors

    @property
    def num_buckets(self) -> int:
        return len(self._buckets)

    def _ready(self, name: str, parameter: nn.Parameter) -> None:
        """The backward has this parameter's gradient."""
        if parameter.grad is not None and parameter.grad.layout != torch.strided:
            raise ValueError(f"{name}: its gradient is sparse, expected dense; build the embedding with sparse=False")
        self._flight = self._flight or Flight(self._buckets)
        if self.active and name in self._flight.complete:
            raise RuntimeError(
                f"{name} got a second gradient since the last step(): its first one is on its way already. Expected one "
                "backward per step(); to add up several, set accumulation_steps and call step() after each"
            )
        self._flight.fired.add(name)
        if self.active:
            self._flight.complete.add(name)
            self._send_complete_buckets()

    def _send_complete_buckets(self) -> None:
        flight = self._flight
        assert flight is not None, "there is one since the first gradient"
        while (
            len(flight.buffers) < len(flight.buckets)
            and flight.buckets[len(flight.buffers)].parameters.keys() <= flight.complete
        ):
            self._send(flight)

    def _send(self, flight: "Flight") -> None:
        """The next bucket leaves, zeros where this rank has no gradient."""
        index = len(flight.buffers)
        bucket = flight.buckets[index]
        with record_function(f"dense all-reduce: start bucket {index}"):
            grads = []
            for name, p in bucket.parameters.items():
                has = p.grad is not None and (name in flight.fired or not self._under_ddp)
                flight.present[name] = has
                grads.append(p.grad.reshape(-1) if has and p.grad is not None else p.new_zeros(p.numel()))
                if not self._under_ddp:
                    p.grad = None
            buffer = bucket.take()
            if bucket.wire_dtype == bucket.dtype:
                torch.cat(grads, out=buffer)
                buffer.mul_(1.0 / self._divisor)
            else:
                exact = torch.cat(grads).mul_(1.0 / self._divisor)
                if index in self._errors:
                    exact += self._errors[index]
                buffer.copy_(exact)
                # A gradient that is not finite is skipped as a whole; its error must not stay for ever.
                self._errors[index] = exact.sub_(buffer).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
            flight.buffers.append(buffer)
            if self._world_size > 1:
                flight.works.append(_all_reduce(buffer, self._group))

    def start(self) -> "Flight":
        """Sends the rest of this step's gradients. Call on every rank after its backward, also on one without data."""
        flight, self._flight = self._flight or Flight(self._buckets), None
        while len(flight.buffers) < len(flight.buckets):
            self._send(flight)
        for parameter in self.parameters.values():
            parameter.grad = None
        flight.leave(self.parameters, self._side, self._host_group if self._world_size > 1 else None)
        return flight

    def withheld(self) -> dict[str, Tensor]:
        """Takes what compression still withholds, summed over the ranks, by parameter. Comm: one all-reduce per bucket."""
        found: dict[str, Tensor] = {}
        for index, error in self._errors.items():
            if self._world_size > 1:
                _all_reduce(error, self._group).wait()
            found |= {name: view.clone() for name, view in self._buckets[index].views(error)}
            error.zero_()
        return found


class Flight:
    """One step's gradients, bucket by bucket, until they are given back."""

    def __init__(self, buckets: list[Bucket]) -> None:
        self.buckets = list(buckets)
        self.buffers: list[Tensor] = []
        self.works: list[dist.Work] = []
        self.present: dict[str, bool] = {}  # has this rank a gradient, later: has any rank
        self.fired: set[str] = set()
        self.complete: set[str] = set()
        self._side, self._landed = None, None
        self._norm: Tensor | None = None

    def leave(
        self, order: Mapping[str, nn.Parameter], side: "torch.cuda.Stream | None", host_group: dist.ProcessGroup | None
    ) -> None:
        """All buckets are on their way: sends the flags after them and, on a GPU, queues what has to follow the collectives."""
        self._order = [name for name in order if name in self.present]
        self._flags = torch.tensor([self.present[name] for name in self._order], dtype=torch.int32)
        self._flag_work = _all_reduce(self._flags, host_group) if host_group is not None else None
        if side is None:
            return
        # The host learns whether all is finite without waiting for the work that it queues meanwhile.
        self._side = side
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for work in self.works:
                work.wait()
            self._norm = self._total_norm()
            self._host_norm = torch.empty((), dtype=self._norm.dtype, pin_memory=True)
            self._host_norm.copy_(self._norm, non_blocking=True)
            self._landed = side.record_event()

    def wait(self) -> dict[str, Tensor]:
        """Mean gradient by parameter name, views of the buffers; parameters without one on any rank are left out."""
        with record_function("dense all-reduce: wait"):
            if self._side is not None:
                torch.cuda.current_stream().wait_stream(self._side)
            else:
                for work in self.works:
                    work.wait()
            if self._flag_work is not None:
                self._flag_work.wait()
        self.present = dict(zip(self._order, (flag > 0 for flag in self._flags.tolist()), strict=True))
        means: dict[str, Tensor] = {}
        for bucket, buffer in zip(self.buckets, self.buffers, strict=True):
            means |= dict(bucket.views(buffer.to(bucket.dtype)))
        return {name: means[name] for name in self._order if self.present[name]}

    def norm(self) -> tuple[Tensor, bool]:
        """Norm of all mean gradients after `wait`, and whether it is finite: the same on every rank, since the gradients are.

        On a GPU the host waits for the end of this flight's collectives, not for the work queued behind them.
        """
        if self._landed is not None and self._norm is not None:
            self._landed.synchronize()
            self._norm.record_stream(torch.cuda.current_stream())
            return self._norm, bool(self._host_norm.isfinite())
        norm = self._total_norm()
        return norm, bool(norm.isfinite())

    def _total_norm(self) -> Tensor:
        views = (bucket.views(b.to(bucket.dtype)) for bucket, b in zip(self.buckets, self.buffers, strict=True))
        return total_norm(self._order, {name: view for bucket_views in views for name, view in bucket_views})

    def release(self) -> None:
        """Its buffers may be used again; views of them must not be."""
        for bucket, buffer in zip(self.buckets, self.buffers, strict=True):
            bucket.give_back(buffer)


@dataclass
class InFlight:
    """A step's gradient that is not applied yet, with what was true when it was computed: on its way, or landed already."""

    flight: Flight | None
    scale: float
    computed_at: dict[str, Tensor] = field(default_factory=dict)
    landed: dict[str, Tensor] | None = None

    def land(self) -> dict[str, Tensor]:
        if self.landed is None:
            assert self.flight is not None, "not landed, so on its way"
            self.landed = self.flight.wait()
        return self.landed


def total_norm(names: Iterable[str], gradients: Mapping[str, Tensor]) -> Tensor:
    """Norm of all gradients as one vector. A name without one counts as zero, so that the bits do not depend on who knows
    already that a parameter has no gradient."""
    zero = next(iter(gradients.values())).new_zeros(())
    return nn.utils.get_total_norm([gradients.get(name, zero) for name in names])


def _all_reduce(tensor: Tensor, group: dist.ProcessGroup | None) -> dist.Work:
    work = dist.all_reduce(tensor, group=group, async_op=True)
    assert work is not None, "this rank belongs to the group"
    return work
